"""H_pre x as a batched product, with its backward written out: no transposed copies, no broadcast temporaries."""

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import backward_without_autocast, compute_dtype


def aggregate(x: Tensor, pre: Tensor) -> Tensor:
    """See `kernels.aggregate`."""
    dtype = compute_dtype(x)
    x_NnC = x.reshape(-1, *x.shape[-2:]).to(dtype)
    pre_Nn = pre.reshape(-1, pre.shape[-1]).to(dtype)
    return _Aggregate.apply(x_NnC, pre_Nn).view(*x.shape[:-2], x.shape[-1]).to(x.dtype)


class _Aggregate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NnC: Tensor, pre_Nn: Tensor) -> Tensor:
        ctx.save_for_backward(x_NnC, pre_Nn)
        return torch.bmm(pre_Nn[:, None], x_NnC)[:, 0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    @backward_without_autocast
    def backward(ctx: Any, gradient_NC: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_NnC, pre_Nn = ctx.saved_tensors
        d_x = pre_Nn[:, :, None] * gradient_NC[:, None] if ctx.needs_input_grad[0] else None
        d_pre = torch.bmm(gradient_NC[:, None], x_NnC.mT)[:, 0] if ctx.needs_input_grad[1] else None
        return d_x, d_pre
