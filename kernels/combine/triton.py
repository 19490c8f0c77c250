"""H_res x + H_post^T y on a GPU: each direction reads every tensor once."""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.registration import differentiable, operation, wrap_triton
from kernels.streams import elements_per_lane, lane_sums, load_streams, row_offsets, tile_of, two_leading, weighted_sum


def combine(x: Tensor, y: Tensor, post: Tensor, res: Tensor) -> Tensor:
    """See `kernels.combine`."""
    arguments = two_leading(x, 2), two_leading(y, 1), two_leading(post, 1), two_leading(res, 2)
    return _forward(*arguments).view(x.shape)


@triton.jit
def _forward_kernel(
    x, y, post, res, out, tokens, inner, width,
    x_outer, x_inner, x_stream, x_channel, y_outer, y_inner, y_channel,
    N: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    channel = (tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)).to(tl.int64)
    live = token < tokens
    mask = live[:, None] & (channel < width)[None]
    x_rows = row_offsets(token, inner, x_outer, x_inner)
    y_rows = row_offsets(token, inner, y_outer, y_inner)
    streams = load_streams(x + x_rows[:, None] + channel[None] * x_channel, x_stream, mask, N)
    written = tl.load(y + y_rows[:, None] + channel[None] * y_channel, mask=mask, other=0.0).to(tl.float32)
    token = token.to(tl.int64)
    gates = load_streams(post + token * N, 1, live, N)
    for i in tl.static_range(N):
        row = load_streams(res + (token * N + i) * N, 1, live, N)
        value = weighted_sum(row, streams, N) + gates[i][:, None] * written
        tl.store(out + (token[:, None] * N + i) * width + channel[None], value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _backward_kernel(
    d_out, x, y, post, res, d_x, d_y, d_post, d_res, tokens, inner, width,
    d_outer, d_inner, d_stream, d_channel, x_outer, x_inner, x_stream, x_channel, y_outer, y_inner, y_channel,
    N: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    live = token < tokens
    d_rows = d_out + row_offsets(token, inner, d_outer, d_inner)[:, None]
    x_rows = x + row_offsets(token, inner, x_outer, x_inner)[:, None]
    y_rows = y + row_offsets(token, inner, y_outer, y_inner)[:, None]
    token = token.to(tl.int64)
    gates = load_streams(post + token * N, 1, live, N)
    columns = ()
    for j in tl.static_range(N):
        columns = columns + (load_streams(res + token * N * N + j, N, live, N),)
    zero = tl.zeros([TOKENS, WIDTH // EACH], tl.float32)
    post_sums, res_sums = (), ()
    for _ in tl.static_range(N):
        post_sums = post_sums + (zero,)
    for _ in tl.static_range(N * N):
        res_sums = res_sums + (zero,)
    for start in range(0, width, WIDTH):
        channel = (start + tl.arange(0, WIDTH)).to(tl.int64)
        mask = live[:, None] & (channel < width)[None]
        gradients = load_streams(d_rows + channel[None] * d_channel, d_stream, mask, N)
        streams = load_streams(x_rows + channel[None] * x_channel, x_stream, mask, N)
        written = tl.load(y_rows + channel[None] * y_channel, mask=mask, other=0.0).to(tl.float32)
        value = weighted_sum(gates, gradients, N).to(d_y.dtype.element_ty)
        tl.store(d_y + token[:, None] * width + channel[None], value, mask=mask)
        for j in tl.static_range(N):
            value = weighted_sum(columns[j], gradients, N).to(d_x.dtype.element_ty)
            tl.store(d_x + (token[:, None] * N + j) * width + channel[None], value, mask=mask)
        more_post, more_res = (), ()
        for i in tl.static_range(N):
            more_post = more_post + (post_sums[i] + lane_sums(gradients[i] * written, TOKENS, WIDTH // EACH, EACH),)
            for j in tl.static_range(N):
                more_res = more_res + (
                    res_sums[i * N + j] + lane_sums(gradients[i] * streams[j], TOKENS, WIDTH // EACH, EACH),
                )
        post_sums, res_sums = more_post, more_res
    for i in tl.static_range(N):
        tl.store(d_post + token * N + i, tl.sum(post_sums[i], 1).to(d_post.dtype.element_ty), mask=live)
    for entry in tl.static_range(N * N):
        total = tl.sum(res_sums[entry], 1).to(d_res.dtype.element_ty)
        tl.store(d_res + token * N * N + entry, total, mask=live)


def _products(x: tuple[int, ...]) -> int:
    *_, n, _ = x
    return 2 * (n + 1) * math.prod(x)


@operation("combine", flops=lambda x, *_, **__: _products(x))
def _forward(x: Tensor, y: Tensor, post: Tensor, res: Tensor) -> Tensor:
    outer, inner, n, width = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    TOKENS, WIDTH = tile_of(width)
    if out.numel() > 0:
        wrap_triton(_forward_kernel)[(triton.cdiv(outer * inner, TOKENS), triton.cdiv(width, WIDTH))](
            x, y, post.contiguous(), res.contiguous(), out, outer * inner, inner, width, *x.stride(), *y.stride(),
            N=n, TOKENS=TOKENS, WIDTH=WIDTH, num_warps=4,
        )  # fmt: skip
    return out


@operation("combine_backward", flops=lambda d_out, x, *_, **__: 2 * _products(x))
def _backward(d_out: Tensor, x: Tensor, y: Tensor, post: Tensor, res: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    outer, inner, n, width = x.shape
    d_x, d_y, d_post, d_res = (
        torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in (x, y, post, res)
    )
    TOKENS, WIDTH = tile_of(width, largest=256)  # a warp a token: its n^2 sums meet in one warp
    if d_post.numel() > 0:
        wrap_triton(_backward_kernel)[(triton.cdiv(outer * inner, TOKENS),)](
            d_out, x, y, post.contiguous(), res.contiguous(), d_x, d_y, d_post, d_res, outer * inner, inner, width,
            *d_out.stride(), *x.stride(), *y.stride(),
            N=n, TOKENS=TOKENS, WIDTH=WIDTH, EACH=elements_per_lane(WIDTH, d_out, x, y), num_warps=4,
        )  # fmt: skip
    return d_x, d_y, d_post, d_res


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_of_autograd(ctx: Any, d_out: Tensor) -> tuple[Tensor, ...]:
    return _backward(d_out, *ctx.saved_tensors)


differentiable(_forward, _backward_of_autograd, _setup_context)
