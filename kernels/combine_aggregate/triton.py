"""`combine_aggregate` on a GPU: the operations that launch its kernels, and which form they take at which size.

Values moved a token at n = 4: forward 10C joined, 14C split; backward 5C + 15C.
"""

import math
from typing import Any

import torch
import triton
from torch import Tensor

from kernels.aggregate.triton import aggregate
from kernels.combine.triton import combine
from kernels.combine_aggregate.triton_backward import coefficients_kernel, streams_kernel
from kernels.combine_aggregate.triton_forward import finish_kernel, joined_kernel, split_kernel
from kernels.hyper_coefficients.triton import hyper_coefficients
from kernels.registration import differentiable, interpreted, operation, wrap_triton
from kernels.streams import elements_per_lane, two_leading

# bytes of x' that programs of the joined form hold in L2 until they read it again, over all that run at once
L2_BYTES = 32 * 2**20
# programs that run at once: two on each of 132 multiprocessors
RESIDENT = 264
# beyond it a block's share of phi and of its gradient, n tiles each, no longer fits the registers of sm_90
MOST_STREAMS = 6


def combine_aggregate(
    x: Tensor,
    y: Tensor,
    post: Tensor,
    res: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    *,
    steps: int,
    last: str,
    eps: float,
    norm_eps: float,
    precision: str,
    joined: bool | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `kernels.combine_aggregate`; by size one of three: joined, split, or the operations one after the other.

    `joined` overrides the choice of the first two, which n > 6 is otherwise not given.
    """
    leading, (n, width) = x.shape[:-2], x.shape[-2:]
    if joined is None and n > MOST_STREAMS:
        options: dict[str, Any] = {
            "steps": steps,
            "last": last,
            "eps": eps,
            "norm_eps": norm_eps,
            "precision": precision,
        }
        x_next = combine(x, y, post, res)
        pre, post, res = hyper_coefficients(x_next, phi, alpha, bias, **options)
        return x_next, aggregate(x_next, pre), pre, post, res
    if joined is None:
        joined = is_joined(x.numel() // (n * max(width, 1)), n, width, x.element_size())
    arguments = two_leading(x, 2), two_leading(y, 1), two_leading(post, 1), two_leading(res, 2), phi, alpha, bias
    x_next, z, pre, post, res, _ = _forward(*arguments, steps, last == "columns", eps, norm_eps, precision, joined)
    return (
        x_next.view(x.shape), z.view(*leading, width),
        pre.view(*leading, n), post.view(*leading, n), res.view(*leading, n, n),
    )  # fmt: skip


def is_joined(tokens: int, n: int, width: int, element_size: int) -> bool:
    """Whether the forward is one launch, by size.

    One launch moves 10C values where two move 14C (n = 4), if x' is still in L2 when it is read again and there are
    programs enough of 16 tokens to fill the machine. The limits follow from the sizes of an H200 (50 MB of L2, 132
    multiprocessors); no measurement has moved them yet.
    """
    return tokens >= 16 * RESIDENT and 16 * (RESIDENT // 2) * n * width * element_size <= L2_BYTES


def _block(width: int, largest: int) -> int:
    return min(largest, max(16, triton.next_power_of_2(width)))


def _sizes(n: int, width: int) -> dict[str, int]:
    if interpreted():  # few large programs: it runs one after another
        return {"TOKENS": 128, "WIDTH": _block(width, 128)}
    # products of tensor cores want 16 rows; n tiles of phi and, backward, of its gradient share the registers
    if n <= 4:
        return {"TOKENS": 16, "WIDTH": _block(width, 64), "num_warps": 4}
    return {"TOKENS": 16, "WIDTH": _block(width, 32), "num_warps": 8, "num_stages": 2}


def _columns(n: int) -> int:
    return max(16, triton.next_power_of_2(n * (n + 2)))


def _grid(tokens: int, width: int, sizes: dict[str, int]) -> tuple[int, int]:
    # whole waves of resident programs; more waves where there are tokens enough to pay for each group's part of dphi
    blocks = triton.cdiv(width, sizes["WIDTH"])
    waves = min(4, max(1, tokens // 8192))
    groups = max(2 if interpreted() else 1, waves * RESIDENT // blocks)
    return blocks, min(groups, triton.cdiv(tokens, sizes["TOKENS"]))


def _coefficient_sizes(n: int, width: int, steps: int, columns: bool, eps: float) -> dict[str, Any]:
    sizes = {"TOKENS": 128 if interpreted() else 16, "WIDTH": _block(width, 128), "num_warps": 4}
    return sizes | {"N": n, "P": triton.next_power_of_2(n), "STEPS": steps, "EPS": eps, "COLUMNS_LAST": columns}


def _flops(x: tuple[int, ...]) -> int:
    # combine, projection and aggregate; Sinkhorn's few are left out, as its n^2 values are beside n C
    n = x[-2]
    return 2 * math.prod(x) * ((n + 1) + n * (n + 2) + 1)


@operation("combine_aggregate", flops=lambda x, *_, **__: _flops(x))
def _forward(
    x: Tensor, y: Tensor, post_before: Tensor, res_before: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor,
    steps: int, columns: bool, eps: float, norm_eps: float, precision: str, joined: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    outer, inner, n, width = x.shape
    tokens, rows = outer * inner, n * (n + 2) + 1

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    out, z = empty(outer, inner, n, width, dtype=x.dtype), empty(outer, inner, width, dtype=x.dtype)
    pre, post, res = empty(outer, inner, n), empty(outer, inner, n), empty(outer, inner, n, n)
    saved = empty(rows, tokens)
    if tokens == 0:
        return out, z, pre, post, res, saved
    phi, alpha, bias = phi.contiguous(), alpha.contiguous(), bias.contiguous()
    before = post_before.contiguous(), res_before.contiguous()
    sizes, finish = _sizes(n, width), _coefficient_sizes(n, width, steps, columns, eps)
    strides = *x.stride(), *y.stride()
    if joined:
        wrap_triton(joined_kernel)[(triton.cdiv(tokens, sizes["TOKENS"]),)](
            x, y, *before, phi, alpha, bias, out, z, pre, post, res, saved, tokens, inner, width, norm_eps, *strides,
            COLUMNS=_columns(n), ONE_BLOCK=width <= sizes["WIDTH"], PRECISION=precision, **finish | sizes,
        )  # fmt: skip
        return out, z, pre, post, res, saved
    grid = _grid(tokens, width, sizes)
    sums = saved if grid[0] == 1 else empty(grid[0], rows, tokens)
    wrap_triton(split_kernel)[grid](
        x, y, *before, phi, out, sums, tokens, inner, width, *strides,
        N=n, COLUMNS=_columns(n), PRECISION=precision, **sizes,
    )  # fmt: skip
    wrap_triton(finish_kernel)[(triton.cdiv(tokens, finish["TOKENS"]),)](
        sums, saved, alpha, bias, out, z, pre, post, res, tokens, width, norm_eps, SPLITS=grid[0], **finish
    )
    return out, z, pre, post, res, saved


@operation("combine_aggregate_backward", flops=lambda d_out, d_z, d_pre, d_post, d_res, x, *_, **__: 2 * _flops(x))
def _backward(
    d_out: Tensor, d_z: Tensor, d_pre: Tensor, d_post: Tensor, d_res: Tensor,
    x: Tensor, y: Tensor, post_before: Tensor, res_before: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor,
    out: Tensor, pre: Tensor, saved: Tensor,
    steps: int, columns: bool, eps: float, norm_eps: float, precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    outer, inner, n, width = x.shape
    tokens, k = outer * inner, n * (n + 2)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=x.device)

    d_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    d_y = torch.empty(y.shape, dtype=y.dtype, device=x.device)
    if tokens == 0:
        d_post, d_res, d_phi = torch.empty_like(post_before), torch.empty_like(res_before), torch.zeros_like(phi)
        return d_x, d_y, d_post, d_res, d_phi, torch.zeros_like(alpha), torch.zeros_like(bias)
    phi, alpha, bias = phi.contiguous(), alpha.contiguous(), bias.contiguous()
    sizes, finish = _sizes(n, width), _coefficient_sizes(n, width, steps, columns, eps)
    blocks = triton.cdiv(tokens, finish["TOKENS"])
    q, d_affine = empty(k + 1, tokens), empty(blocks, k + 3)
    wrap_triton(coefficients_kernel)[(blocks,)](
        d_z, d_pre.contiguous(), d_post.contiguous(), d_res.contiguous(), out, saved, alpha, bias, q, d_affine,
        tokens, inner, width, norm_eps, *d_z.stride(),
        EACH=elements_per_lane(finish["WIDTH"], d_z, out), **finish,
    )  # fmt: skip
    grid = _grid(tokens, width, sizes)
    d_coefficients, phi_parts = empty(grid[0], n * (n + 1), tokens), empty(grid[1], n * width, k)
    wrap_triton(streams_kernel)[grid](
        d_out, d_z, x, y, post_before.contiguous(), res_before.contiguous(), pre, phi, q, d_x, d_y, d_coefficients,
        phi_parts, tokens, inner, width, *d_out.stride(), *d_z.stride(), *x.stride(), *y.stride(),
        N=n, COLUMNS=_columns(n), PRECISION=precision, **sizes,
    )  # fmt: skip
    d_post, d_res = d_coefficients.sum(0).T.split([n, n * n], 1)
    d_bias, d_alpha = d_affine.sum(0).split([k, 3])
    return (
        d_x,
        d_y,
        _like(post_before, d_post),
        _like(res_before, d_res),
        _like(phi, phi_parts.sum(0)),
        _like(alpha, d_alpha),
        _like(bias, d_bias),
    )


def _like(argument: Tensor, gradient: Tensor) -> Tensor:
    # a copy of its own: an operation returns no view of what it, or another of its results, holds
    return torch.empty(argument.shape, dtype=argument.dtype, device=argument.device).copy_(
        gradient.reshape(argument.shape)
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.steps, ctx.columns, ctx.eps, ctx.norm_eps, ctx.precision, _ = inputs
    out, _, pre, _, _, saved = output
    ctx.save_for_backward(*tensors, out, pre, saved)
    ctx.mark_non_differentiable(saved)


def _backward_of_autograd(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    options = ctx.steps, ctx.columns, ctx.eps, ctx.norm_eps, ctx.precision
    return *_backward(*gradients[:5], *ctx.saved_tensors, *options), *(None,) * 6


differentiable(_forward, _backward_of_autograd, _setup_context)
