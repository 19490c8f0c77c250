"""Forward kernels of `combine_aggregate`: write the streams, project them, then coefficients and what is read.

Two forms. Joined: a program owns TOKENS rows, walks the width, and reads its own x' again from L2 for z (from registers
where one block is the whole row). Split: programs own a block of channels, whose part of phi stays on chip while they
walk the tokens, and leave partial projections; a second launch adds these up and reads x'.

Sums over x' go through memory as [splits, K + 1, tokens], K = n (n + 2): K columns of x' phi and sum(x'^2). Token-last,
so that a lane that owns a token reads what it needs, and the next kernel may lay tokens out in another way.
"""

import triton
import triton.language as tl

from kernels.device import product, sinkhorn
from kernels.streams import load_streams, row_offsets, weighted_sum


@triton.jit
def load_phi(phi, channel, width, N: tl.constexpr, COLUMNS: tl.constexpr):
    """The rows of phi that belong to these channels of each stream, N tiles [WIDTH, COLUMNS]."""
    K: tl.constexpr = N * (N + 2)
    column = tl.arange(0, COLUMNS)
    mask = (channel < width)[:, None] & (column < K)[None]
    return load_streams(phi + channel[:, None] * K + column[None], width * K, mask, N)


@triton.jit
def load_matrix(res, token, live, N: tl.constexpr):
    """Rows of the matrices [tokens, N, N]: N tuples of N weights [TOKENS]."""
    rows = ()
    for i in tl.static_range(N):
        rows = rows + (load_streams(res + (token * N + i) * N, 1, live, N),)
    return rows


@triton.jit
def written_streams(x, y, x_stream, mask, gates, matrix, dtype: tl.constexpr, N: tl.constexpr):
    """x' = H_res x + H_post^T y of one tile, as it is stored: N tiles in `dtype`."""
    streams = load_streams(x, x_stream, mask, N)
    written = tl.load(y, mask=mask, other=0.0).to(tl.float32)
    tiles = ()
    for i in tl.static_range(N):
        value = weighted_sum(matrix[i], streams, N) + gates[i][:, None] * written
        tiles = tiles + (value.to(dtype),)
    return tiles


@triton.jit
def _store_and_project(
    tiles, out, phi, channel, mask, token, width, total, squares,
    N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    square = tl.zeros(mask.shape, tl.float32)
    for i in tl.static_range(N):
        tl.store(out + (token[:, None] * N + i) * width + channel[None], tiles[i], mask=mask)
        total = product(tiles[i], phi[i], total, PRECISION)
        value = tiles[i].to(tl.float32)
        square += value * value
    return total, squares + tl.sum(square, 1)


@triton.jit
def _store_sums(sums, total, squares, token, live, tokens, N: tl.constexpr, COLUMNS: tl.constexpr):
    K: tl.constexpr = N * (N + 2)
    column = tl.arange(0, COLUMNS)
    pointers = sums + column.to(tl.int64)[None] * tokens + token[:, None]
    tl.store(pointers, total, mask=live[:, None] & (column < K)[None])
    tl.store(sums + tl.full((), K, tl.int64) * tokens + token, squares, mask=live)


@triton.jit
def split_kernel(
    x, y, post, res, phi, out, sums, tokens, inner, width,
    x_outer, x_inner, x_stream, x_channel, y_outer, y_inner, y_channel,
    N: tl.constexpr, COLUMNS: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write x' and leave the sums over this program's channels; grid (blocks of channels, groups of tokens)."""
    K: tl.constexpr = N * (N + 2)
    channel = (tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)).to(tl.int64)
    block_phi = load_phi(phi, channel, width, N, COLUMNS)
    sums += tl.program_id(0).to(tl.int64) * (K + 1) * tokens
    for first in range(tl.program_id(1) * TOKENS, tokens, tl.num_programs(1) * TOKENS):
        token = first + tl.arange(0, TOKENS)
        live = token < tokens
        mask = live[:, None] & (channel < width)[None]
        x_rows = row_offsets(token, inner, x_outer, x_inner)[:, None]
        y_rows = row_offsets(token, inner, y_outer, y_inner)[:, None]
        token = token.to(tl.int64)
        tiles = written_streams(
            x + x_rows + channel[None] * x_channel, y + y_rows + channel[None] * y_channel, x_stream, mask,
            load_streams(post + token * N, 1, live, N), load_matrix(res, token, live, N), out.dtype.element_ty, N,
        )  # fmt: skip
        total, squares = _store_and_project(
            tiles, out, block_phi, channel, mask, token, width, tl.zeros([TOKENS, COLUMNS], tl.float32),
            tl.zeros([TOKENS], tl.float32), N, PRECISION,
        )  # fmt: skip
        _store_sums(sums, total, squares, token, live, tokens, N, COLUMNS)


@triton.jit
def _sum_splits(pointers, stride, mask, SPLITS: tl.constexpr):
    total = tl.load(pointers, mask=mask, other=0.0)
    for split in range(1, SPLITS):
        total += tl.load(pointers + tl.cast(split, tl.int64) * stride, mask=mask, other=0.0)
    return total


@triton.jit
def _coefficients(
    sums, saved, alpha, bias, pre, post, res, token, live, tokens, width, norm_eps,
    N: tl.constexpr, P: tl.constexpr, STEPS: tl.constexpr, EPS: tl.constexpr, COLUMNS_LAST: tl.constexpr,
    SPLITS: tl.constexpr,
):  # fmt: skip
    # stores the coefficients, and the sums where they came in parts; returns H_pre as N weights [TOKENS]
    K: tl.constexpr = N * (N + 2)
    rows = tl.cast(tokens, tl.int64)
    squares = _sum_splits(sums + K * rows + token, (K + 1) * rows, live, SPLITS)
    inverse = 1.0 / tl.sqrt(squares / (N * width) + norm_eps)
    weights = ()
    for k in tl.static_range(2 * N):
        raw = _sum_splits(sums + k * rows + token, (K + 1) * rows, live, SPLITS)
        gate = tl.load(alpha + k // N).to(tl.float32)
        value = tl.sigmoid(raw * inverse * gate + tl.load(bias + k).to(tl.float32))
        if SPLITS > 1:
            tl.store(saved + k * rows + token, raw, mask=live)
        if k < N:
            tl.store(pre + token * N + k, value + EPS, mask=live)
            weights = weights + (value + EPS,)
        else:
            tl.store(post + token * N + (k - N), 2.0 * value, mask=live)
    i = tl.arange(0, P)[None, :, None]
    j = tl.arange(0, P)[None, None, :]
    inside = (i < N) & (j < N)
    # columns last is the transposed problem
    entry = j * N + i if COLUMNS_LAST else i * N + j
    mask = live[:, None, None] & inside
    offsets = (2 * N + entry) * rows + token[:, None, None]
    raw = _sum_splits(sums + offsets, (K + 1) * rows, mask, SPLITS)
    gate = tl.load(alpha + 2).to(tl.float32)
    shift = tl.load(bias + 2 * N + entry, mask=inside, other=0.0).to(tl.float32)
    if SPLITS > 1:
        tl.store(saved + offsets, raw, mask=mask)
        tl.store(saved + K * rows + token, squares, mask=live)
    matrix = sinkhorn(raw * inverse[:, None, None] * gate + shift, N, STEPS, EPS)
    tl.store(res + token[:, None, None] * (N * N) + entry, matrix, mask=mask)
    return weights


@triton.jit
def finish_kernel(
    sums, saved, alpha, bias, out, z, pre, post, res, tokens, width, norm_eps,
    N: tl.constexpr, P: tl.constexpr, STEPS: tl.constexpr, EPS: tl.constexpr, COLUMNS_LAST: tl.constexpr,
    SPLITS: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Coefficients from the sums of all blocks of channels, and z = H_pre x'; grid (blocks of tokens,)."""
    # the last tokens first: they are what L2 still holds
    token = (tl.num_programs(0) - 1 - tl.program_id(0)) * TOKENS + tl.arange(0, TOKENS)
    live = token < tokens
    token = token.to(tl.int64)
    weights = _coefficients(
        sums, saved, alpha, bias, pre, post, res, token, live, tokens, width, norm_eps,
        N, P, STEPS, EPS, COLUMNS_LAST, SPLITS,
    )  # fmt: skip
    _read(out, z, weights, token, live, width, N, WIDTH)


@triton.jit
def _read(out, z, weights, token, live, width, N: tl.constexpr, WIDTH: tl.constexpr):
    for start in range(0, width, WIDTH):
        channel = (start + tl.arange(0, WIDTH)).to(tl.int64)
        mask = live[:, None] & (channel < width)[None]
        streams = load_streams(out + token[:, None] * N * width + channel[None], width, mask, N)
        value = weighted_sum(weights, streams, N)
        tl.store(z + token[:, None] * width + channel[None], value.to(z.dtype.element_ty), mask=mask)


@triton.jit
def joined_kernel(
    x, y, post_before, res_before, phi, alpha, bias, out, z, pre, post, res, sums, tokens, inner, width, norm_eps,
    x_outer, x_inner, x_stream, x_channel, y_outer, y_inner, y_channel,
    N: tl.constexpr, P: tl.constexpr, STEPS: tl.constexpr, EPS: tl.constexpr, COLUMNS_LAST: tl.constexpr,
    COLUMNS: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr, ONE_BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Everything in one launch; grid (blocks of tokens,). With ONE_BLOCK, x' stays in registers until z is made."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    live = token < tokens
    x_rows = row_offsets(token, inner, x_outer, x_inner)[:, None]
    y_rows = row_offsets(token, inner, y_outer, y_inner)[:, None]
    token = token.to(tl.int64)
    gates = load_streams(post_before + token * N, 1, live, N)
    matrix = load_matrix(res_before, token, live, N)
    total = tl.zeros([TOKENS, COLUMNS], tl.float32)
    squares = tl.zeros([TOKENS], tl.float32)
    if ONE_BLOCK:
        channel = tl.arange(0, WIDTH).to(tl.int64)
        mask = live[:, None] & (channel < width)[None]
        tiles = written_streams(
            x + x_rows + channel[None] * x_channel, y + y_rows + channel[None] * y_channel, x_stream, mask,
            gates, matrix, out.dtype.element_ty, N,
        )  # fmt: skip
        total, squares = _store_and_project(
            tiles, out, load_phi(phi, channel, width, N, COLUMNS), channel, mask, token, width, total, squares,
            N, PRECISION,
        )  # fmt: skip
    else:
        for start in range(0, width, WIDTH):
            channel = (start + tl.arange(0, WIDTH)).to(tl.int64)
            mask = live[:, None] & (channel < width)[None]
            tiles = written_streams(
                x + x_rows + channel[None] * x_channel, y + y_rows + channel[None] * y_channel, x_stream, mask,
                gates, matrix, out.dtype.element_ty, N,
            )  # fmt: skip
            total, squares = _store_and_project(
                tiles, out, load_phi(phi, channel, width, N, COLUMNS), channel, mask, token, width, total, squares,
                N, PRECISION,
            )  # fmt: skip
    _store_sums(sums, total, squares, token, live, tokens, N, COLUMNS)
    # other threads of this block read what these wrote: sums, and x'
    tl.debug_barrier()
    weights = _coefficients(
        sums, sums, alpha, bias, pre, post, res, token, live, tokens, width, norm_eps,
        N, P, STEPS, EPS, COLUMNS_LAST, 1,
    )  # fmt: skip
    if ONE_BLOCK:
        value = weights[0][:, None] * tiles[0].to(tl.float32)
        for i in tl.static_range(1, N):
            value += weights[i][:, None] * tiles[i].to(tl.float32)
        tl.store(z + token[:, None] * width + channel[None], value.to(z.dtype.element_ty), mask=mask)
    else:
        _read(out, z, weights, token, live, width, N, WIDTH)
