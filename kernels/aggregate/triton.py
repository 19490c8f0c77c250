"""H_pre x on a GPU: each direction reads the streams once."""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.registration import differentiable, operation, wrap_triton
from kernels.streams import elements_per_lane, lane_sums, load_streams, row_offsets, tile_of, two_leading, weighted_sum


def aggregate(x: Tensor, pre: Tensor) -> Tensor:
    """See `kernels.aggregate`."""
    return _forward(two_leading(x, 2), two_leading(pre, 1)).view(*x.shape[:-2], x.shape[-1])


@triton.jit
def _forward_kernel(
    x, pre, z, tokens, inner, width, x_outer, x_inner, x_stream, x_channel,
    N: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    channel = (tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)).to(tl.int64)
    live = token < tokens
    mask = live[:, None] & (channel < width)[None]
    rows = row_offsets(token, inner, x_outer, x_inner)
    streams = load_streams(x + rows[:, None] + channel[None] * x_channel, x_stream, mask, N)
    token = token.to(tl.int64)
    weights = load_streams(pre + token * N, 1, live, N)
    value = weighted_sum(weights, streams, N)
    tl.store(z + token[:, None] * width + channel[None], value.to(z.dtype.element_ty), mask=mask)


@triton.jit
def _backward_kernel(
    d_z, x, pre, d_x, d_pre, tokens, inner, width,
    d_outer, d_inner, d_channel, x_outer, x_inner, x_stream, x_channel,
    N: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    live = token < tokens
    x_rows = x + row_offsets(token, inner, x_outer, x_inner)[:, None]
    d_rows = d_z + row_offsets(token, inner, d_outer, d_inner)[:, None]
    token = token.to(tl.int64)
    weights = load_streams(pre + token * N, 1, live, N)
    zero = tl.zeros([TOKENS, WIDTH // EACH], tl.float32)
    sums = ()
    for _ in tl.static_range(N):
        sums = sums + (zero,)
    for start in range(0, width, WIDTH):
        channel = (start + tl.arange(0, WIDTH)).to(tl.int64)
        mask = live[:, None] & (channel < width)[None]
        gradient = tl.load(d_rows + channel[None] * d_channel, mask=mask, other=0.0).to(tl.float32)
        streams = load_streams(x_rows + channel[None] * x_channel, x_stream, mask, N)
        added = ()
        for j in tl.static_range(N):
            value = (weights[j][:, None] * gradient).to(d_x.dtype.element_ty)
            tl.store(d_x + (token[:, None] * N + j) * width + channel[None], value, mask=mask)
            added = added + (sums[j] + lane_sums(gradient * streams[j], TOKENS, WIDTH // EACH, EACH),)
        sums = added
    for j in tl.static_range(N):
        tl.store(d_pre + token * N + j, tl.sum(sums[j], 1).to(d_pre.dtype.element_ty), mask=live)


def _flops(x: tuple[int, ...], *_: Any, **__: Any) -> int:
    return 2 * math.prod(x)


@operation("aggregate", flops=_flops)
def _forward(x: Tensor, pre: Tensor) -> Tensor:
    outer, inner, n, width = x.shape
    z = torch.empty(outer, inner, width, dtype=x.dtype, device=x.device)
    TOKENS, WIDTH = tile_of(width)
    if z.numel() > 0:
        wrap_triton(_forward_kernel)[(triton.cdiv(outer * inner, TOKENS), triton.cdiv(width, WIDTH))](
            x, pre.contiguous(), z, outer * inner, inner, width, *x.stride(),
            N=n, TOKENS=TOKENS, WIDTH=WIDTH, num_warps=4,
        )  # fmt: skip
    return z


@operation("aggregate_backward", flops=lambda d_z, x, *_, **__: 4 * math.prod(x))
def _backward(d_z: Tensor, x: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
    outer, inner, n, width = x.shape
    d_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    d_pre = torch.empty(pre.shape, dtype=pre.dtype, device=pre.device)
    TOKENS, WIDTH = tile_of(width, largest=256)  # a warp a token: its n sums meet in one warp
    if d_pre.numel() > 0:
        wrap_triton(_backward_kernel)[(triton.cdiv(outer * inner, TOKENS),)](
            d_z, x, pre.contiguous(), d_x, d_pre, outer * inner, inner, width, *d_z.stride(), *x.stride(),
            N=n, TOKENS=TOKENS, WIDTH=WIDTH, EACH=elements_per_lane(WIDTH, d_z, x), num_warps=4,
        )  # fmt: skip
    return d_x, d_pre


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_of_autograd(ctx: Any, d_z: Tensor) -> tuple[Tensor, ...]:
    return _backward(d_z, *ctx.saved_tensors)


differentiable(_forward, _backward_of_autograd, _setup_context)
