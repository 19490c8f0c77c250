"""Hyper-Connections (HC, arXiv 2409.19606): streams mixed without constraint."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kernels import aggregate, combine
from kernels.dispatch import without_autocast
from mhc.topology import ResidualTopology


class _Coefficients(NamedTuple):
    pre: Tensor  # A_m [..., n]
    post: Tensor  # B [..., n]
    res: Tensor  # A_r^T [..., out, in]


class HyperConnection(ResidualTopology):
    """x' = A_r^T x + B^T F(A_m^T x) over n streams, static or dynamic (arXiv 2409.19606, eq. 2 and 10-13).

    Dynamic: with h = norm(x) per stream, B = s_b tanh(h W_b) + B_0, (A_m, A_r) = s_a tanh(h W_a) + (A_m0, A_r0).
    It starts as the pre-norm residual: W = 0, s = 0.01, B_0 = 1, A_m0 = e_(index mod n), A_r0 = I. Streams begin as
    copies and end as their sum.

    Args:
        width: C, channels of a stream.
        index: of the sublayer in the trunk; stream (index mod n) is the one read first.
        streams: n, 1 to 8.
        dynamic: add the input-dependent part; without it the matrices are parameters alone.
        tanh: bound the dynamic part by tanh.
        norm: makes the norm of a stream from its width; None takes LayerNorm, as the paper.

    Raises:
        ValueError: `streams` out of range, or `width` below 1.
    """

    def __init__(
        self,
        width: int,
        index: int = 0,
        *,
        streams: int = 4,
        dynamic: bool = True,
        tanh: bool = True,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        require_shape(width, streams)
        fp32 = torch.float32
        self.width, self.index, self.n, self.tanh = width, index, streams, tanh
        read_first = torch.eye(streams, dtype=fp32)[:, index % streams, None]
        # columns: what the sublayer reads, then what each stream becomes (A_r [in, out])
        self.static_alpha = nn.Parameter(torch.cat([read_first, torch.eye(streams, dtype=fp32)], 1))
        self.static_beta = nn.Parameter(torch.ones(streams, dtype=fp32))
        self.norm: nn.Module | None = None
        if dynamic:
            self.norm = (norm or nn.LayerNorm)(width).float()
            self.dynamic_alpha = nn.Parameter(torch.zeros(width, streams + 1, dtype=fp32))
            self.dynamic_beta = nn.Parameter(torch.zeros(width, dtype=fp32))
            self.alpha_scale = nn.Parameter(torch.tensor(0.01, dtype=fp32))
            self.beta_scale = nn.Parameter(torch.tensor(0.01, dtype=fp32))

    def expand(self, x: Tensor) -> Tensor:
        """Copy x [B, S, C] to every stream: [B, S, n, C]."""
        return x.unsqueeze(-2).expand(*x.shape[:-1], self.n, self.width)

    def aggregate(self, state: Tensor) -> tuple[Tensor, _Coefficients]:
        """Read A_m^T x from the streams [B, S, n, C]."""
        with without_autocast(state.device):
            carry = self._coefficients(state)
        return aggregate(state, carry.pre), carry

    def combine(self, state: Tensor, y: Tensor, carry: _Coefficients) -> Tensor:
        """Write A_r^T x + B^T y to the streams [B, S, n, C]."""
        return combine(state, y, carry.post, carry.res)

    def reduce(self, state: Tensor) -> Tensor:
        """Sum the streams [B, S, n, C] to [B, S, C]."""
        return state.sum(-2)

    def mixing(self, carry: _Coefficients) -> Tensor:
        """A_r^T [B, S, out, in]."""
        return carry.res

    def streams(self, state: Tensor) -> Tensor:
        """The state itself, [B, S, n, C]."""
        return state

    def no_weight_decay(self) -> set[str]:
        """Names of the static mixing parameters."""
        return {"static_alpha", "static_beta"}

    def _coefficients(self, state: Tensor) -> _Coefficients:
        alpha: Tensor = self.static_alpha
        beta: Tensor = self.static_beta
        if self.norm is None:
            alpha, beta = alpha.expand(*state.shape[:-2], -1, -1), beta.expand(state.shape[:-1])
        else:
            h = self.norm(state.to(alpha.dtype))
            projection = h @ torch.cat([self.dynamic_alpha, self.dynamic_beta[:, None]], 1)
            if self.tanh:
                projection = projection.tanh()
            alpha = alpha + self.alpha_scale * projection[..., :-1]
            beta = beta + self.beta_scale * projection[..., -1]
        return _Coefficients(alpha[..., 0], beta, alpha[..., 1:].mT)


def require_shape(width: int, streams: int) -> None:
    """Raise a ValueError unless 1 <= streams <= 8 and width >= 1."""
    if not 1 <= streams <= 8:
        raise ValueError(f"streams must be from 1 to 8, got {streams}")
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
