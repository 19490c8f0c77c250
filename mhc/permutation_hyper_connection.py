"""mHC-lite (arXiv 2601.05732): streams mixed by a convex combination of all permutations."""

import itertools
import math

import torch
from torch import Tensor

from kernels.dispatch import require
from mhc.birkhoff_hyper_connection import BirkhoffHyperConnection, Init

MAX_STREAMS = 5  # 120 permutations; six streams have 720, and phi as many columns


class PermutationHyperConnection(BirkhoffHyperConnection):
    """H_res = sum_k softmax(h_res)_k P_k over the n! permutations of the streams (mHC-lite, arXiv 2601.05732).

    By Birkhoff's theorem these are all doubly stochastic matrices. For n = 4 it has 24 logits where mHC has 16.

    Args:
        width: C, channels of a stream.
        index: of the sublayer in the trunk; stream (index mod n) leads at the start.
        streams: n, 1 to 5.
        norm_eps: of the RMS over n C channels; 1e-20 is mHC's. Models with padding want 1e-6.
        init: "residual" (mHC's start in this toolkit) or "identity" (mHC-lite's).

    Raises:
        ValueError: an argument out of range, by name.
    """

    permutations: Tensor

    def __init__(
        self, width: int, index: int = 0, *, streams: int = 4, norm_eps: float = 1e-20, init: Init = "residual"
    ) -> None:
        require(1 <= streams <= MAX_STREAMS, type(self).__name__, "streams", "1 to 5, which n! allows", streams)
        super().__init__(width, index, streams=streams, norm_eps=norm_eps, init=init)
        # kept with the parameters: one that is not is lost where a model is moved from the meta device
        self.register_buffer("permutations", torch.empty(self.logits, streams * streams, dtype=torch.float32))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set phi, alpha and bias to the `init` of the class's table, and the permutations, of which I is the first."""
        super().reset_parameters()
        orders = list(itertools.permutations(range(self.n)))
        matrices = torch.tensor([[[float(i == j) for j in range(self.n)] for i in order] for order in orders])
        self.permutations.copy_(matrices.flatten(1))

    def matrix(self, logits: Tensor) -> Tensor:
        """H_res [..., out, in] of logits [..., n!]."""
        # in fp64, which neither TF32 nor autocast touches: products in their precision would not sum to 1
        mixed = logits.softmax(-1).double() @ self.permutations.double()
        return mixed.to(logits.dtype).unflatten(-1, (self.n, self.n))

    def start(self, distance: float) -> Tensor:
        """0 for the identity, which comes first, and -distance for the other permutations."""
        logits = torch.full((math.factorial(self.n),), -distance)
        logits[0] = 0.0
        return logits

    def distance(self, diagonal: float) -> float:
        """The distance at which every entry of H_res's diagonal is `diagonal`, for n > 1."""
        others = math.factorial(self.n) - 1
        # of the other permutations, this part leaves a given stream in its place
        staying = (math.factorial(self.n - 1) - 1) / others
        identity = (diagonal - staying) / (1 - staying)
        return math.log(identity / ((1 - identity) / others))
