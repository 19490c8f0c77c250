"""All groups in one launch, by torch's kernel; nothing waits for the device to tell how many rows a group has."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kernels.dispatch import backward_without_autocast


def grouped_product(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """See `kernels.grouped_product`."""
    return _GroupedProduct.apply(x.contiguous(), weight.contiguous(), ends.to(torch.int32))


class _GroupedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, weight_EDC: Tensor, ends_E: Tensor) -> Tensor:
        ctx.save_for_backward(x_NC, weight_EDC, ends_E)
        return F.grouped_mm(x_NC, weight_EDC.mT, offs=ends_E)

    @staticmethod
    @torch.autograd.function.once_differentiable
    @backward_without_autocast
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_NC, weight_EDC, ends_E = ctx.saved_tensors
        gradient_ND = gradient_ND.contiguous()  # the kernel takes no broadcast one
        d_x = F.grouped_mm(gradient_ND, weight_EDC, offs=ends_E) if ctx.needs_input_grad[0] else None
        d_weight = F.grouped_mm(gradient_ND.mT, x_NC, offs=ends_E) if ctx.needs_input_grad[1] else None
        return d_x, d_weight, None


@register_flop_formula(torch.ops.aten._grouped_mm)
def _flops(left: tuple[int, ...], right: tuple[int, ...], *_: Any, **__: Any) -> int:
    # [N, C] x [E, C, D] and, for the weights, [D, N] x [N, C]: every row meets one matrix
    return 2 * math.prod(left) * right[-1]
