"""Identity HC: streams that are read and written as in mHC, and not mixed."""

import torch
from torch import Tensor

from mhc.birkhoff_hyper_connection import BirkhoffHyperConnection, Init


class IdentityHyperConnection(BirkhoffHyperConnection):
    """H_res = I, H_pre and H_post as in mHC: no logits of H_res, and no parameters for them.

    `ManifoldHyperConnection(res=False)` is the same function and keeps the parameters that would make H_res.

    Args:
        width: C, channels of a stream.
        index: of the sublayer in the trunk; stream (index mod n) leads at the start.
        streams: n, 1 to 8.
        norm_eps: of the RMS over n C channels; 1e-20 is mHC's. Models with padding want 1e-6.
        init: "residual" (mHC's start in this toolkit) or "identity" (mHC-lite's); they differ in H_pre and H_post.

    Raises:
        ValueError: an argument out of range, by name.
    """

    def __init__(
        self, width: int, index: int = 0, *, streams: int = 4, norm_eps: float = 1e-20, init: Init = "residual"
    ) -> None:
        super().__init__(width, index, streams=streams, norm_eps=norm_eps, init=init)
        self.reset_parameters()

    def matrix(self, logits: Tensor) -> Tensor:
        """I, as [..., n, n], of logits [..., 0]."""
        eye = torch.eye(self.n, dtype=logits.dtype, device=logits.device)
        return eye.expand(*logits.shape[:-1], self.n, self.n)

    def start(self, distance: float) -> Tensor:
        """There are no logits."""
        return torch.zeros(0)

    def distance(self, diagonal: float) -> float:
        """There is nothing to be far from."""
        return 0.0
