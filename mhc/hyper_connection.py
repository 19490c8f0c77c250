"""Hyper-Connections (HC, arXiv 2409.19606): streams mixed without constraint."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kernels.dispatch import without_autocast
from kernels.hyper_coefficients import HyperCoefficients
from mhc.streams import StreamTopology, require_shape


class HyperConnection(StreamTopology):
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
            # of one dimension, without which FSDP2 shards nothing
            self.alpha_scale = nn.Parameter(torch.full((1,), 0.01, dtype=fp32))
            self.beta_scale = nn.Parameter(torch.full((1,), 0.01, dtype=fp32))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take scales without a dimension, too, as other implementations have them."""
        for name in (f"{prefix}alpha_scale", f"{prefix}beta_scale"):
            if name in state_dict and state_dict[name].dim() == 0:
                state_dict[name] = state_dict[name][None]
        super()._load_from_state_dict(state_dict, prefix, *args)

    def reduce(self, state: Tensor) -> Tensor:
        """Sum the streams [B, S, n, C] to [B, S, C]."""
        return state.sum(-2)

    def no_weight_decay(self) -> set[str]:
        """Names of the static mixing parameters."""
        return {"static_alpha", "static_beta"}

    def coefficients(self, state: Tensor) -> HyperCoefficients:
        """A_m [..., n], B [..., n] and A_r^T [..., out, in] of the streams [..., n, C], in fp32."""
        alpha: Tensor = self.static_alpha
        beta: Tensor = self.static_beta
        if self.norm is None:
            alpha, beta = alpha.expand(*state.shape[:-2], -1, -1), beta.expand(state.shape[:-1])
        else:
            with without_autocast(state.device):
                h = self.norm(state.to(alpha.dtype))
                projection = h @ torch.cat([self.dynamic_alpha, self.dynamic_beta[:, None]], 1)
                if self.tanh:
                    projection = projection.tanh()
                alpha = alpha + self.alpha_scale * projection[..., :-1]
                beta = beta + self.beta_scale * projection[..., -1]
        return HyperCoefficients(alpha[..., 0], beta, alpha[..., 1:].mT)
