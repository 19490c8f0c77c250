"""A loop over the groups, written straight to the result: no copies of the rows, one gradient for all matrices."""

import itertools
from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import backward_without_autocast, require, without_autocast


def grouped_product(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """See `kernels.grouped_product`."""
    with without_autocast(x.device):
        return _GroupedProduct.apply(x, weight, ends)


class _GroupedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, weight_EDC: Tensor, ends_E: Tensor) -> Tensor:
        ctx.save_for_backward(x_NC, weight_EDC)
        ctx.groups = _groups(ends_E, len(x_NC))
        y_ND = x_NC.new_empty(len(x_NC), weight_EDC.shape[1])
        for expert, rows in ctx.groups:
            torch.mm(x_NC[rows], weight_EDC[expert].mT, out=y_ND[rows])
        return y_ND

    @staticmethod
    @torch.autograd.function.once_differentiable
    @backward_without_autocast
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_NC, weight_EDC = ctx.saved_tensors
        d_x = torch.empty_like(x_NC) if ctx.needs_input_grad[0] else None
        make = torch.empty_like if len(ctx.groups) == len(weight_EDC) else torch.zeros_like
        d_weight = make(weight_EDC) if ctx.needs_input_grad[1] else None
        for expert, rows in ctx.groups:
            if d_x is not None:
                torch.mm(gradient_ND[rows], weight_EDC[expert], out=d_x[rows])
            if d_weight is not None:
                torch.mm(gradient_ND[rows].mT, x_NC[rows], out=d_weight[expert])
        return d_x, d_weight, None


def _groups(ends: Tensor, rows: int) -> list[tuple[int, slice]]:
    # how rows spread over groups is unknown without values, and no matter to shapes and FLOPs
    bounds = [0, rows] if ends.is_meta else [0, *ends.tolist()]
    groups = [(expert, slice(*pair)) for expert, pair in enumerate(itertools.pairwise(bounds)) if pair[1] > pair[0]]
    complete = sum(group.stop - group.start for _, group in groups) == rows == bounds[-1]
    require(complete, "grouped_product", "ends", f"ascending to N = {rows}", bounds[1:])
    return groups
