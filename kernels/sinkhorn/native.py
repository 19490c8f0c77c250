"""Sinkhorn-Knopp in C for fp32 matrices on CPU; nothing is kept for the backward but the logits."""

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import has_memory_here
from kernels.native import library
from kernels.sinkhorn import reference

_SOURCE = Path(__file__).with_name("native.c")


def can_run(logits: Tensor) -> bool:
    """Whether this code serves [..., n, n] logits here: plain memory on CPU, not fp64, not in a graph, a compiler."""
    return has_memory_here(logits) and logits.dtype != torch.float64 and _functions(logits.shape[-1]) is not None


def sinkhorn(logits: Tensor, *, steps: int, last: str, eps: float) -> Tensor:
    """See `kernels.sinkhorn`."""
    n = logits.shape[-1]
    matrices = logits.reshape(-1, n, n).float()
    return _Sinkhorn.apply(matrices, steps, last, eps).view(logits.shape).to(logits.dtype)


class _Sinkhorn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, steps: int, last: str, eps: float) -> Tensor:
        ctx.save_for_backward(logits)
        ctx.options = steps, last, eps
        logits, result = logits.contiguous(), torch.empty_like(logits, memory_format=torch.contiguous_format)
        spread = _call("sinkhorn_forward", logits.shape[-1], (logits, result), *ctx.options)
        # beyond the range of fp32 probabilities the logarithms of the reference take over, for the whole call
        ctx.in_range = eps > 0.0 or spread <= reference.PROBABILITY_RANGE
        return result if ctx.in_range else reference.sinkhorn(logits, steps=steps, last=last, eps=eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (logits,) = ctx.saved_tensors
        steps, last, eps = ctx.options
        if not ctx.in_range:
            with torch.enable_grad():
                leaf = logits.detach().requires_grad_()
                matrix = reference.sinkhorn(leaf, steps=steps, last=last, eps=eps)
            return *torch.autograd.grad(matrix, leaf, gradient), None, None, None
        logits, gradient = logits.contiguous(), gradient.contiguous()
        d_logits = torch.empty_like(logits)
        _call("sinkhorn_backward", logits.shape[-1], (logits, gradient, d_logits), steps, last, eps)
        return d_logits, None, None, None


def _functions(streams: int) -> ctypes.CDLL | None:
    functions = library(_SOURCE, STREAMS=streams)
    if functions is not None:
        functions.sinkhorn_forward.restype = functions.sinkhorn_backward.restype = ctypes.c_float
    return functions


def _call(name: str, streams: int, tensors: tuple[Tensor, ...], steps: int, last: str, eps: float) -> float:
    functions = _functions(streams)
    if functions is None:
        raise RuntimeError("sinkhorn: impl='native' needs a C compiler (cc, gcc, clang or $CC), and none was found")
    result: float = getattr(functions, name)(
        *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
        ctypes.c_int64(len(tensors[0])),
        ctypes.c_int(steps),
        ctypes.c_float(eps),
        ctypes.c_int(last == "columns"),
    )
    if result < 0:
        raise MemoryError(f"{name}: no memory for the scaling vectors of {steps} steps")
    return result
