"""Mixture of experts: a feed-forward sublayer of which each token runs a part (DeepSeekMoE, arXiv 2401.06066)."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.dispatch import compute_dtype, without_autocast
from kernels.grouped_product import grouped_product
from kernels.grouped_product.api import Implementation
from mhc.context import Context
from mhc.description import Described
from mhc.feed_forward import require_hidden
from mhc.norm import RMSNorm
from mhc.routing import Routing


class MixtureOfExperts(Described):
    """sum over the k chosen e of p_e SwiGLU_e(z) + SwiGLU_shared(z), with z = norm(x) and p = softmax(W_r z).

    The chosen are the k of the largest p, which stay as they are: not made to sum to 1. All rows that the experts
    are given are computed, whatever the load.

    Args:
        width: C.
        experts: E, routed.
        chosen: k of them a token.
        hidden: H, width of an expert's hidden layer.
        shared: experts that every token runs, as one SwiGLU of shared * H; 0 for none.
        norm: makes the norm from its width.
        impl: of the experts' products, see `kernels.grouped_product`.

    Raises:
        ValueError: a size below 1, a negative `shared`, or `chosen` above `experts`.
    """

    def __init__(
        self,
        width: int,
        *,
        experts: int = 64,
        chosen: int = 6,
        hidden: int = 896,
        shared: int = 2,
        norm: Callable[[int], nn.Module] = RMSNorm,
        impl: Implementation = "auto",
    ) -> None:
        super().__init__()
        require_hidden(hidden)
        if not 1 <= chosen <= experts:
            raise ValueError(f"chosen must be from 1 to experts = {experts}, got {chosen}")
        if shared < 0:
            raise ValueError(f"shared must not be negative, got {shared}")
        self.experts, self.chosen, self.shared, self.impl = experts, chosen, shared, impl
        self.norm = norm(width)
        self.router = nn.Linear(width, experts, bias=False)
        self.gate_up = nn.Parameter(torch.empty(experts, 2 * hidden, width))
        self.down = nn.Parameter(torch.empty(experts, width, hidden))
        if shared:
            self.shared_gate = nn.Linear(width, shared * hidden, bias=False)
            self.shared_up = nn.Linear(width, shared * hidden, bias=False)
            self.shared_down = nn.Linear(shared * hidden, width, bias=False)
        self.initialise(std=0.02, output_std=0.02)

    @torch.no_grad()
    def initialise(self, std: float, output_std: float) -> None:
        """Draw all weights normal: `down` and `shared_down`, which write to the residual, with `output_std`."""
        for name, parameter in self.named_parameters():
            part = name.partition(".")[0]
            if part != "norm":
                nn.init.normal_(parameter, std=output_std if part in ("down", "shared_down") else std)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """[B, S, C] -> [B, S, C]; the routing joins `context.routings` where that is a list."""
        z = self.norm(x)
        probabilities = self._probabilities(z)
        weights, chosen = probabilities.topk(self.chosen, sorted=False)
        if context is not None and context.routings is not None:
            context.routings.append(Routing(context.index, probabilities, chosen))
        y = self._routed(z.flatten(0, -2), weights.flatten(0, -2), chosen.flatten(0, -2)).view(z.shape)
        if not self.shared:
            return y
        return y + self.shared_down(F.silu(self.shared_gate(z)) * self.shared_up(z))

    def _probabilities(self, z: Tensor) -> Tensor:
        dtype = compute_dtype(z)
        with without_autocast(z.device):
            return F.linear(z.to(dtype), self.router.weight.to(dtype)).softmax(-1)

    def _routed(self, z_TC: Tensor, weights_Tk: Tensor, chosen_Tk: Tensor) -> Tensor:
        expert_N, order_N = chosen_Tk.flatten().sort(stable=True)
        ends_E = torch.searchsorted(expert_N, torch.arange(self.experts, device=z_TC.device), right=True)
        position_N = torch.empty_like(order_N).scatter_(0, order_N, torch.arange(len(order_N), device=z_TC.device))
        token_N, position_Tk = order_N // self.chosen, position_N.view_as(chosen_Tk)
        gate, up = self._product(_Spread.apply(z_TC, token_N, position_Tk), self.gate_up, ends_E).chunk(2, -1)
        # the weights are fp32, and so is the product
        hidden_NH = (F.silu(gate) * up * weights_Tk.flatten().gather(0, order_N)[:, None]).to(gate.dtype)
        return _Collect.apply(self._product(hidden_NH, self.down, ends_E), token_N, position_Tk)

    def _product(self, rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
        return grouped_product(rows, weight, ends, impl=self.impl)


class _Spread(torch.autograd.Function):
    """Copy each token to the rows of its experts; the gradient collects them, without additions to one place."""

    @staticmethod
    def forward(ctx: Any, x_TC: Tensor, token_N: Tensor, position_Tk: Tensor) -> Tensor:
        ctx.save_for_backward(token_N, position_Tk)
        return x_TC.index_select(0, token_N)

    @staticmethod
    def backward(ctx: Any, gradient_NC: Tensor) -> tuple[Tensor | None, ...]:
        return _Collect.apply(gradient_NC, *ctx.saved_tensors), None, None


class _Collect(torch.autograd.Function):
    """Sum each token's rows."""

    @staticmethod
    def forward(ctx: Any, y_NC: Tensor, token_N: Tensor, position_Tk: Tensor) -> Tensor:
        ctx.save_for_backward(token_N, position_Tk)
        return F.embedding_bag(position_Tk, y_NC, mode="sum")  # one pass, without the rows in another order

    @staticmethod
    def backward(ctx: Any, gradient_TC: Tensor) -> tuple[Tensor | None, ...]:
        return _Spread.apply(gradient_TC, *ctx.saved_tensors), None, None
