"""KromHC (arXiv 2601.21579): streams mixed by a Kronecker product of 2 x 2 doubly stochastic matrices."""

import math

import torch
from torch import Tensor

from kernels.dispatch import require
from mhc.birkhoff_hyper_connection import BirkhoffHyperConnection, Init


class KroneckerHyperConnection(BirkhoffHyperConnection):
    """H_res = U_1 x ... x U_K (Kronecker), n = 2^K, U_k = p_k I + (1 - p_k) P_swap, (p_k, 1 - p_k) = softmax(h_k).

    Each factor is a convex combination of the two permutations of two streams, with a logit for each (KromHC, arXiv
    2601.21579). H_res is doubly stochastic with 2 K logits, where mHC has n^2; not all such matrices are of this form.

    Args:
        width: C, channels of a stream.
        index: of the sublayer in the trunk; stream (index mod n) leads at the start.
        streams: n, a power of 2: 1, 2, 4 or 8.
        norm_eps: of the RMS over n C channels; 1e-20 is mHC's. Models with padding want 1e-6.
        init: "residual" (mHC's start in this toolkit) or "identity" (KromHC's, and mHC-lite's).

    Raises:
        ValueError: an argument out of range, by name.
    """

    def __init__(
        self, width: int, index: int = 0, *, streams: int = 4, norm_eps: float = 1e-20, init: Init = "residual"
    ) -> None:
        require(streams in (1, 2, 4, 8), type(self).__name__, "streams", "a power of 2 to 8", streams)
        super().__init__(width, index, streams=streams, norm_eps=norm_eps, init=init)
        self.reset_parameters()

    def matrix(self, logits: Tensor) -> Tensor:
        """H_res [..., out, in] of logits [..., 2 K]: to stay and to swap, factor by factor."""
        stay, swap = logits.unflatten(-1, (-1, 2)).softmax(-1).unbind(-1)
        factors = torch.stack([stay, swap, swap, stay], -1).unflatten(-1, (2, 2))
        product = factors.new_ones(*logits.shape[:-1], 1, 1)
        for factor in factors.unbind(-3):
            grown = product[..., :, None, :, None] * factor[..., None, :, None, :]
            product = grown.flatten(-2).flatten(-3, -2)
        return product

    def start(self, distance: float) -> Tensor:
        """0 to stay and -distance to swap, for every factor."""
        return torch.tensor([0.0, -distance] * int(math.log2(self.n)))

    def distance(self, diagonal: float) -> float:
        """The distance at which every entry of H_res's diagonal, p^K, is `diagonal`, for n > 1."""
        stay = diagonal ** (1 / math.log2(self.n))
        return math.log(stay / (1 - stay))
