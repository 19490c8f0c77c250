"""Sinkhorn-Knopp on the GPU: one launch each way, matrices in registers, nothing kept but the logits.

Bytes: 2 n^2 values a matrix forward, 3 n^2 backward.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.device import sinkhorn as sinkhorn_on_chip
from kernels.device import sinkhorn_backward as sinkhorn_backward_on_chip
from kernels.registration import differentiable, interpreted, operation, wrap_triton

# entries of all matrices of a block: four to a thread
ENTRIES = 512


def sinkhorn(logits: Tensor, *, steps: int, last: str, eps: float) -> Tensor:
    """See `kernels.sinkhorn`."""
    n = logits.shape[-1]
    return _sinkhorn(logits.reshape(-1, n, n), steps, last == "columns", eps).view(logits.shape)


def _flops(logits: tuple[int, ...], steps: int) -> int:
    # 2 steps - 1 products of a matrix and a scaling vector, after the softmax; a backward is three times that
    return (2 * steps - 1) * 2 * math.prod(logits)


@triton.jit
def _offsets(count, stride, stride_i, stride_j, N: tl.constexpr, BLOCK: tl.constexpr, P: tl.constexpr):
    token = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None, None]
    i = tl.arange(0, P)[None, :, None]
    j = tl.arange(0, P)[None, None, :]
    mask = (token < count) & (i < N) & (j < N)
    return token * stride + i.to(tl.int64) * stride_i + j.to(tl.int64) * stride_j, mask


@triton.jit
def _forward_kernel(
    logits, result, count, stride, stride_i, stride_j, result_i, result_j,
    N: tl.constexpr, STEPS: tl.constexpr, EPS: tl.constexpr, BLOCK: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    offsets, mask = _offsets(count, stride, stride_i, stride_j, N, BLOCK, P)
    matrix = sinkhorn_on_chip(tl.load(logits + offsets, mask=mask, other=0.0).to(tl.float32), N, STEPS, EPS)
    offsets, mask = _offsets(count, N * N, result_i, result_j, N, BLOCK, P)
    tl.store(result + offsets, matrix.to(result.dtype.element_ty), mask=mask)


@triton.jit
def _backward_kernel(
    gradient, logits, result, count, gradient_stride, gradient_i, gradient_j, stride, stride_i, stride_j, result_i,
    result_j, N: tl.constexpr, STEPS: tl.constexpr, EPS: tl.constexpr, BLOCK: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    offsets, mask = _offsets(count, gradient_stride, gradient_i, gradient_j, N, BLOCK, P)
    upstream = tl.load(gradient + offsets, mask=mask, other=0.0).to(tl.float32)
    offsets, mask = _offsets(count, stride, stride_i, stride_j, N, BLOCK, P)
    values = tl.load(logits + offsets, mask=mask, other=0.0).to(tl.float32)
    d_logits = sinkhorn_backward_on_chip(values, upstream, N, STEPS, EPS)
    offsets, mask = _offsets(count, N * N, result_i, result_j, N, BLOCK, P)
    tl.store(result + offsets, d_logits.to(result.dtype.element_ty), mask=mask)


def _strides(matrices: Tensor, columns: bool) -> tuple[int, int, int]:
    # columns last is the transposed problem
    token, i, j = matrices.stride()
    return (token, j, i) if columns else (token, i, j)


def _sizes(n: int) -> dict[str, int]:
    padded = triton.next_power_of_2(n)
    return {"BLOCK": max(ENTRIES // padded**2, 64 if interpreted() else 1), "P": padded, "num_warps": 4}


@operation("sinkhorn_backward", flops=lambda gradient, logits, steps, *_, **__: 3 * _flops(logits, steps))
def _sinkhorn_backward(gradient: Tensor, logits: Tensor, steps: int, columns: bool, eps: float) -> Tensor:
    count, n, _ = logits.shape
    result = torch.empty((count, n, n), dtype=logits.dtype, device=logits.device)
    if count == 0:
        return result
    sizes = _sizes(n)
    wrap_triton(_backward_kernel)[(-(-count // sizes["BLOCK"]),)](
        gradient, logits, result, count, *_strides(gradient, columns), *_strides(logits, columns),
        *_strides(result, columns)[1:], N=n, STEPS=steps, EPS=eps, **sizes,
    )  # fmt: skip
    return result


@operation("sinkhorn", flops=lambda logits, steps, *_, **__: _flops(logits, steps))
def _sinkhorn(logits: Tensor, steps: int, columns: bool, eps: float) -> Tensor:
    count, n, _ = logits.shape
    result = torch.empty((count, n, n), dtype=logits.dtype, device=logits.device)
    if count == 0:
        return result
    sizes = _sizes(n)
    wrap_triton(_forward_kernel)[(-(-count // sizes["BLOCK"]),)](
        logits, result, count, *_strides(logits, columns), *_strides(result, columns)[1:], N=n, STEPS=steps, EPS=eps,
        **sizes,
    )  # fmt: skip
    return result


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, *ctx.options = inputs
    ctx.save_for_backward(logits)


def _autograd(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    (logits,) = ctx.saved_tensors
    return _sinkhorn_backward(gradient, logits, *ctx.options), None, None, None


differentiable(_sinkhorn, _autograd, _setup_context)
