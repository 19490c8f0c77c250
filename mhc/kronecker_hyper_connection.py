"""KromHC (arXiv 2601.21579): streams mixed by a Kronecker product of 2 x 2 doubly stochastic matrices."""

import math

import torch
from torch import Tensor

from mhc.birkhoff_hyper_connection import BirkhoffHyperConnection


class KroneckerHyperConnection(BirkhoffHyperConnection):
    """H_res = U_1 x ... x U_K (Kronecker), n = 2^K, U_k = p_k I + (1 - p_k) P_swap, (p_k, 1 - p_k) = softmax(h_k).

    Each factor is a convex combination of the two permutations of two streams, with a logit for each (KromHC, arXiv
    2601.21579). H_res is doubly stochastic with 2 K logits, where mHC has n^2; not all such matrices are of this form.

    Arguments and what is raised are `BirkhoffHyperConnection`'s; streams are 1, 2, 4 or 8.
    """

    counts = (1, 2, 4, 8)

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
