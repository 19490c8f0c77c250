"""Identity HC: streams that are read and written as in mHC, and not mixed."""

import torch
from torch import Tensor

from mhc.birkhoff_hyper_connection import BirkhoffHyperConnection


class IdentityHyperConnection(BirkhoffHyperConnection):
    """H_res = I, H_pre and H_post as in mHC: no logits of H_res, and no parameters for them.

    `ManifoldHyperConnection(res=False)` is the same function and keeps the parameters that would make H_res.

    Arguments and what is raised are `BirkhoffHyperConnection`'s; `init` decides about H_pre and H_post alone.
    """

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
