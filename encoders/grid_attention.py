"""Attention within a grid with decomposed relative positions, in three codes of one definition.

The bias of a query and a key is query . rows[r, r'] + query . columns[c, c'], a number for each row and one for each
column of keys (MViTv2, arXiv 2112.01526, eq. 4; SAM, arXiv 2304.02643). Written out it is as large as the scores, with
a gradient as large again: 805 MB each for 12 heads on a grid of 64 x 64. Neither fast code writes it out.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# scores at a time on CPU: 2 MiB in fp32 stay in a core's cache; 2^17 to 2^20 differ by less than a tenth
_BLOCK = 2**19


def grid_attention(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(D) + bias) value, where bias = query . rows[r, r'] + query . columns[c, c'].

    On CPU in blocks, on a GPU through torch's attention with longer queries and keys, elsewhere as defined.

    Args:
        query: [B, H, S, D] of tokens that fill r rows and c columns in raster order, S = r c.
        key: [B, H, S, D].
        value: [B, H, S, D].
        rows: [r, r, D], by row of the query and row of the key.
        columns: [c, c, D], by column of the query and column of the key.

    Returns:
        [B, H, S, D] in the dtype of `query`.
    """
    if query.device.type == "cpu" and not torch.compiler.is_compiling():
        return in_blocks(query, key, value, rows, columns)
    if query.device.type == "meta":
        return as_defined(query, key, value, rows, columns)
    return with_codes(query, key, value, rows, columns)


def as_defined(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The definition, with scores and bias written out."""
    along_rows, along_columns = _products(query, rows, columns)
    bias = (along_rows[..., :, None] + along_columns[..., None, :]).flatten(-2)
    return (query @ key.mT * query.shape[-1] ** -0.5 + bias).softmax(-1) @ value


def with_codes(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The bias as part of an inner product: of [query, its products] and [key, one-hot codes of its row and column]."""
    width = query.shape[-1]
    # the scale of the scores is taken back in the small tables, so that the one of the attention is for all
    products = _products(query, rows * width**0.5, columns * width**0.5)
    r, c = rows.shape[0], columns.shape[0]
    row_codes = torch.eye(r, dtype=key.dtype, device=key.device).repeat_interleave(c, 0)
    column_codes = torch.eye(c, dtype=key.dtype, device=key.device).repeat(r, 1)
    codes = torch.cat([row_codes, column_codes], -1).expand(*key.shape[:2], -1, -1)
    query, key = torch.cat([query, *products], -1), torch.cat([key, codes], -1)
    # flash attention knows one width, and eights of it
    wide = -(-(width + r + c) // 8) * 8
    query, key, value = (F.pad(tensor, (0, wide - tensor.shape[-1])) for tensor in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, scale=width**-0.5)[..., :width]


def in_blocks(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """As many scores at a time as fit a cache, in fp32 at least; the backward makes them again, and has no gradient."""
    shape, dtype = query.shape, query.dtype
    higher = torch.promote_types(dtype, torch.float32)
    with torch.autocast("cpu", enabled=False):
        query, key, value, rows, columns = (tensor.to(higher) for tensor in (query, key, value, rows, columns))
        tensors = (query, key, value, *_products(query, rows, columns))
        return _Blocks.apply(*(tensor.flatten(0, 1) for tensor in tensors)).view(shape).to(dtype)


def _products(query: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    # [B, H, S, r] and [B, H, S, c]
    grid = query.unflatten(2, (rows.shape[0], columns.shape[0]))
    along_rows = torch.einsum("bhrcd,rkd->bhrck", grid, rows.to(query.dtype))
    along_columns = torch.einsum("bhrcd,ckd->bhrck", grid, columns.to(query.dtype))
    return along_rows.flatten(2, 3), along_columns.flatten(2, 3)


class _Blocks(torch.autograd.Function):
    """Of query, key, value [N, S, D] and the products [N, S, r] and [N, S, c]."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, along_rows: Tensor, along_columns: Tensor
    ) -> Tensor:
        output = torch.empty_like(query)
        for heads, block in _blocks(query):
            output[block] = _weights(query, key, along_rows, along_columns, heads, block) @ value[heads]
        ctx.save_for_backward(query, key, value, along_rows, along_columns, output)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        query, key, value, along_rows, along_columns, output = ctx.saved_tensors
        d_query, d_rows, d_columns = map(torch.empty_like, (query, along_rows, along_columns))
        d_key, d_value = map(torch.zeros_like, (key, value))
        scale, grid = query.shape[-1] ** -0.5, (along_rows.shape[-1], along_columns.shape[-1])
        # softmax's backward subtracts gradient . output, here inside the matrix product
        upstream = torch.cat([gradient, -(gradient * output).sum(-1, keepdim=True)], -1)
        extended = F.pad(value, (0, 1), value=1.0).mT
        for heads, block in _blocks(query):
            weights = _weights(query, key, along_rows, along_columns, heads, block)
            d_value[heads].baddbmm_(weights.mT, gradient[block])
            d_scores = torch.bmm(upstream[block], extended[heads]).mul_(weights)
            by_place = d_scores.unflatten(-1, grid)
            d_rows[block], d_columns[block] = by_place.sum(-1), by_place.sum(-2)
            d_key[heads].baddbmm_(d_scores.mT, query[block], alpha=scale)
            d_query[block] = torch.bmm(d_scores, key[heads]).mul_(scale)
        return d_query, d_key, d_value, d_rows, d_columns


def _blocks(query: Tensor) -> list[tuple[slice, tuple[slice, slice]]]:
    # whole heads while they are small, then some queries of one head
    count, length, _ = query.shape
    heads, queries = max(1, _BLOCK // length**2), max(1, min(length, _BLOCK // length))
    some = [slice(n, n + heads) for n in range(0, count, heads)]
    return [(group, (group, slice(q, q + queries))) for group in some for q in range(0, length, queries)]


def _weights(
    query: Tensor, key: Tensor, along_rows: Tensor, along_columns: Tensor, heads: slice, block: tuple[slice, slice]
) -> Tensor:
    scores = (along_rows[block][..., None] + along_columns[block][..., None, :]).flatten(-2)
    return scores.baddbmm_(query[block], key[heads].mT, alpha=query.shape[-1] ** -0.5).softmax(-1)
