"""mHC-lite (arXiv 2601.05732): streams mixed by a convex combination of all permutations."""

import itertools
import math

import torch
from torch import Tensor

from mhc.birkhoff_hyper_connection import BirkhoffHyperConnection


class PermutationHyperConnection(BirkhoffHyperConnection):
    """H_res = sum_k softmax(h_res)_k P_k over the n! permutations of the streams (mHC-lite, arXiv 2601.05732).

    By Birkhoff's theorem these are all doubly stochastic matrices. For n = 4 it has 24 logits where mHC has 16.

    Arguments and what is raised are `BirkhoffHyperConnection`'s; streams are 1 to 5, for n! columns of phi.
    """

    counts = range(1, 6)  # six streams have 720 permutations
    permutations: Tensor

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set phi, alpha and bias to the `init` of the class's table, and the permutations, of which I is the first."""
        super().reset_parameters()
        orders = list(itertools.permutations(range(self.n)))
        matrices = torch.tensor([[[float(i == j) for j in range(self.n)] for i in order] for order in orders])
        # kept with the parameters: one that is not is lost where a model is moved from the meta device
        self.register_buffer("permutations", matrices.flatten(1).to(self.bias))

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
