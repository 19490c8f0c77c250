"""What all topologies of n streams share: copies at the start, one read, one write, one matrix that mixes."""

import math
from abc import abstractmethod

import torch
from torch import Tensor

from kernels import aggregate, combine
from kernels.dispatch import Implementation
from kernels.hyper_coefficients import HyperCoefficients
from mhc.topology import ResidualTopology

# share of the leading stream in H_pre where the others share the rest
LEADING_SHARE = 0.55


class StreamTopology(ResidualTopology):
    """x' = H_res x + H_post^T F(H_pre x) over n streams [B, S, n, C]; a class says what the three are.

    Attributes:
        width: C, channels of a stream.
        n: streams.
        impl: code of the kernels.
    """

    width: int
    n: int
    impl: Implementation = "auto"

    @abstractmethod
    def coefficients(self, state: Tensor) -> HyperCoefficients:
        """H_pre [..., n], H_post [..., n] and H_res [..., out, in] of the streams [..., n, C], in fp32 or fp64."""

    def expand(self, x: Tensor) -> Tensor:
        """Copy x [B, S, C] to every stream: [B, S, n, C]."""
        return x.unsqueeze(-2).expand(*x.shape[:-1], self.n, self.width)

    def aggregate(self, state: Tensor) -> tuple[Tensor, HyperCoefficients]:
        """Read H_pre x from the streams [B, S, n, C]."""
        carry = self.coefficients(state)
        return aggregate(state, carry.pre, impl=self.impl), carry

    def combine(self, state: Tensor, y: Tensor, carry: HyperCoefficients) -> Tensor:
        """Write H_res x + H_post^T y to the streams [B, S, n, C]."""
        return combine(state, y, carry.post, carry.res, impl=self.impl)

    def mixing(self, carry: HyperCoefficients) -> Tensor:
        """H_res [B, S, out, in]."""
        return carry.res

    def streams(self, state: Tensor) -> Tensor:
        """The state itself, [B, S, n, C]."""
        return state


def leading_read(n: int, lead: int) -> Tensor:
    """Logits [n] of H_pre that give .55 to stream `lead` and share .45 among the others; sigmoid(8) where n = 1."""
    share = (1 - LEADING_SHARE) / max(n - 1, 1)
    logits = torch.full((n,), math.log(share / (1 - share)))
    logits[lead] = math.log(LEADING_SHARE / (1 - LEADING_SHARE)) if n > 1 else 8.0
    return logits


def require_shape(width: int, streams: int) -> None:
    """Raise a ValueError unless 1 <= streams <= 8 and width >= 1."""
    if not 1 <= streams <= 8:
        raise ValueError(f"streams must be from 1 to 8, got {streams}")
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
