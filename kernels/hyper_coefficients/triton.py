"""H_pre, H_post and H_res on the GPU: one pass over the streams forward, one read and one write of them backward.

Values a token: n C forward, 2 n C backward, and 2 splits (n (n + 2) + 1) between the launches. Kept for the backward:
n (n + 2) + 1, the projection over r and 1 / r; the rest is computed again. Every sum has a fixed order: no atomics.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from kernels.hyper_coefficients.triton_backward import coefficients_kernel, streams_kernel
from kernels.hyper_coefficients.triton_forward import finish_kernel, split_kernel, whole_kernel
from kernels.registration import differentiable, interpreted, operation, wrap_triton
from kernels.streams import elements_per_lane, two_leading

# multiprocessors to fill where there are none to count
PROCESSORS_ON_CPU = 4


def hyper_coefficients(
    x: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    *,
    steps: int,
    last: str,
    eps: float,
    norm_eps: float,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `kernels.hyper_coefficients`."""
    leading, n = x.shape[:-2], x.shape[-2]
    weights = phi.float(), alpha.float(), bias.float()
    pre, post, res, _ = _forward(two_leading(x, 2), *weights, steps, last == "columns", eps, norm_eps, precision)
    return pre.view(*leading, n), post.view(*leading, n), res.view(*leading, n, n)


def _flops(x: tuple[int, ...], steps: int) -> int:
    # the projection, and 2 steps - 1 products of a matrix and a scaling vector
    outer, inner, n, width = x
    return 2 * outer * inner * (n * width * n * (n + 2) + (2 * steps - 1) * n * n)


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return PROCESSORS_ON_CPU
    return torch.cuda.get_device_properties(device).multi_processor_count


def _tile(tokens: int, n: int, width: int, precision: str) -> dict[str, int]:
    # tensor cores want 16 of each; without them, and where n > 4 (64 columns of res), registers hold less
    most_tokens = 16 if precision == "ieee" else 64 if n <= 4 else 32
    most_channels = 32 if precision == "ieee" else 128 if n <= 4 else 64
    return {
        "N": n,
        "P": 4 if n <= 4 else 8,
        "TOKENS": next(size for size in (16, 32, 64) if size >= min(tokens, most_tokens)),
        "WIDTH": next(size for size in (16, 32, 64, 128) if size >= min(width, most_channels)),
        "num_warps": 4,
    }


def _finish_tile(n: int) -> dict[str, int]:
    # four entries of a matrix to a thread; the interpreter is given few large blocks
    tokens = 64 if interpreted() else 32 if n <= 4 else 8
    return {"N": n, "P": 4 if n <= 4 else 8, "TOKENS": tokens, "num_warps": 4}


def _splits(blocks: int, chunks: int, wanted: int) -> tuple[int, int]:
    """(parts, chunks of each) that bring `blocks` programs to about `wanted`."""
    parts = min(chunks, max(1, wanted // blocks))
    each = triton.cdiv(chunks, parts)
    return triton.cdiv(chunks, each), each


@operation(
    "hyper_coefficients_backward",
    flops=lambda d_pre, d_post, d_res, x, *rest, **_: 2 * _flops(x, rest[4]),
)
def _backward(
    d_pre: Tensor, d_post: Tensor, d_res: Tensor, x: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, saved: Tensor,
    steps: int, columns: bool, eps: float, precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    outer, inner, n, width = x.shape
    tokens, k = outer * inner, n * (n + 2)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    d_x = empty(outer, inner, n, width, dtype=x.dtype)
    if tokens == 0:
        d_phi, d_alpha, d_bias = (empty(*weight.shape).zero_() for weight in (phi, alpha, bias))
        return d_x, d_phi, d_alpha, d_bias
    phi, alpha, bias = phi.contiguous(), alpha.contiguous(), bias.contiguous()
    tile, finish = _tile(tokens, n, width, precision), _finish_tile(n)
    blocks = triton.cdiv(tokens, finish["TOKENS"])
    q, d_affine = empty(tokens, k + 1), empty(blocks, k + 3)
    wrap_triton(coefficients_kernel)[(blocks,)](
        d_pre.contiguous(), d_post.contiguous(), d_res.contiguous(), saved, alpha, bias, q, d_affine, tokens, width,
        STEPS=steps, EPS=eps, COLUMNS_LAST=columns, **finish,
    )  # fmt: skip
    chunks = n * triton.cdiv(width, tile["WIDTH"])
    groups, each = _splits(chunks, triton.cdiv(tokens, tile["TOKENS"]), 4 * _processors(x.device))
    d_phi = empty(groups, n * width, k)
    wrap_triton(streams_kernel)[(chunks, groups)](
        x, phi, q, d_x, d_phi, tokens, inner, width, *x.stride(), each, PRECISION=precision, **tile
    )
    affine = d_affine.sum(0)
    return d_x, d_phi.sum(0), affine[k:].clone(), affine[:k].clone()


@operation("hyper_coefficients", flops=lambda x, phi, alpha, bias, steps, *_, **__: _flops(x, steps))
def _forward(
    x: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor,
    steps: int, columns: bool, eps: float, norm_eps: float, precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    outer, inner, n, width = x.shape
    tokens, k = outer * inner, n * (n + 2)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=x.device)

    pre, post, res, saved = empty(tokens, n), empty(tokens, n), empty(tokens, n, n), empty(tokens, k + 1)
    if tokens == 0:
        return pre, post, res, saved
    phi, alpha, bias = phi.contiguous(), alpha.contiguous(), bias.contiguous()
    tile = _tile(tokens, n, width, precision)
    blocks, chunks = triton.cdiv(tokens, tile["TOKENS"]), n * triton.cdiv(width, tile["WIDTH"])
    splits, each = _splits(blocks, chunks, 2 * _processors(x.device))
    after = {"STEPS": steps, "EPS": eps, "NORM_EPS": norm_eps, "COLUMNS_LAST": columns}
    reading = {"EACH": elements_per_lane(tile["WIDTH"], x), "PRECISION": precision}
    if splits == 1:
        wrap_triton(whole_kernel)[(blocks,)](
            x, phi, alpha, bias, saved, pre, post, res, tokens, inner, width, *x.stride(), **reading, **after, **tile
        )
        return pre, post, res, saved
    sums = empty(splits, tokens, k + 1)
    wrap_triton(split_kernel)[(blocks, splits)](
        x, phi, sums, tokens, inner, width, *x.stride(), each, **reading, **tile
    )
    finish = _finish_tile(n)
    wrap_triton(finish_kernel)[(triton.cdiv(tokens, finish["TOKENS"]),)](
        sums, alpha, bias, saved, pre, post, res, tokens, width, splits, **after, **finish
    )
    return pre, post, res, saved


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, steps, columns, eps, _, precision = inputs
    ctx.save_for_backward(*tensors, output[3])
    ctx.options = steps, columns, eps, precision
    ctx.mark_non_differentiable(output[3])


def _autograd(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward(*gradients[:3], *ctx.saved_tensors, *ctx.options), *(None,) * 5


differentiable(_forward, _autograd, _setup_context)
