"""Kernels of `hyper_coefficients`, forward: projection and sum of squares in one pass, then gates and Sinkhorn.

K = n (n + 2) columns: gates (pre, post) in a tile of 16, logits of res in one of P x P, which on the chip is reshaped
to matrices; P is 4 or 8. In memory columns keep their order. WIDTH channels of one stream make a chunk.
"""

import triton
import triton.language as tl

from kernels.device import product, sinkhorn
from kernels.streams import lane_sums, row_offsets

GATES = tl.constexpr(16)


@triton.jit
def mix_columns(N: tl.constexpr, P: tl.constexpr):
    """Column of phi for each entry of a flattened P x P matrix, and whether there is one."""
    entry = tl.arange(0, P * P)
    i = entry // P
    j = entry % P
    return 2 * N + i * N + j, (i < N) & (j < N)


@triton.jit
def load_phi(phi, stream, channel, width, N: tl.constexpr, P: tl.constexpr):
    """Rows of phi of these channels of a stream: [WIDTH, 16] of the gates, [WIDTH, P x P] of res; 0 elsewhere."""
    rows = phi + (tl.cast(stream, tl.int64) * width + channel)[:, None] * (N * (N + 2))
    live = (channel < width)[:, None]
    gate = tl.arange(0, GATES)
    mix, real = mix_columns(N, P)
    gates = tl.load(rows + gate[None], mask=live & (gate < 2 * N)[None], other=0.0)
    mixes = tl.load(rows + mix[None], mask=live & real[None], other=0.0)
    return gates, mixes


@triton.jit
def _project(
    x, phi, token, live, inner, width, x_outer, x_inner, x_stream, x_channel, first, end,
    N: tl.constexpr, P: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr, EACH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    rows = x + row_offsets(token, inner, x_outer, x_inner)[:, None]
    blocks = tl.cdiv(width, WIDTH)
    gates = tl.zeros([TOKENS, GATES], tl.float32)
    mixes = tl.zeros([TOKENS, P * P], tl.float32)
    squares = tl.zeros([TOKENS, WIDTH // EACH], tl.float32)
    for chunk in range(first, end):
        stream = chunk // blocks
        channel = ((chunk - stream * blocks) * WIDTH + tl.arange(0, WIDTH)).to(tl.int64)
        mask = live[:, None] & (channel < width)[None]
        tile = tl.load(rows + tl.cast(stream, tl.int64) * x_stream + channel[None] * x_channel, mask=mask, other=0.0)
        phi_gates, phi_mixes = load_phi(phi, stream, channel, width, N, P)
        gates = product(tile, phi_gates, gates, PRECISION)
        mixes = product(tile, phi_mixes, mixes, PRECISION)
        tile = tile.to(tl.float32)
        squares += lane_sums(tile * tile, TOKENS, WIDTH // EACH, EACH)
    return gates, mixes, tl.sum(squares, 1)


@triton.jit
def _finish(
    gates, mixes, squares, alpha, bias, saved, pre, post, res, token, live, width,
    N: tl.constexpr, P: tl.constexpr, STEPS: tl.constexpr, EPS: tl.constexpr, NORM_EPS: tl.constexpr,
    COLUMNS_LAST: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    K: tl.constexpr = N * (N + 2)
    inverse = 1.0 / tl.sqrt(squares / tl.cast(N * width, tl.float32) + NORM_EPS)
    gates *= inverse[:, None]
    mixes *= inverse[:, None]
    gate = tl.arange(0, GATES)
    is_pre = gate < N
    is_gate = gate < 2 * N
    mix, real = mix_columns(N, P)
    lives = live[:, None]
    rows = saved + token[:, None] * (K + 1)
    tl.store(rows + gate[None], gates, mask=lives & is_gate[None])
    tl.store(rows + mix[None], mixes, mask=lives & real[None])
    tl.store(saved + token * (K + 1) + K, inverse, mask=live)
    alphas = tl.where(is_pre, tl.load(alpha), tl.load(alpha + 1))
    values = tl.sigmoid(gates * alphas[None] + tl.load(bias + gate, mask=is_gate, other=0.0)[None])
    tl.store(pre + token[:, None] * N + gate[None], values + EPS, mask=lives & is_pre[None])
    tl.store(post + token[:, None] * N + (gate - N)[None], 2.0 * values, mask=lives & (is_gate & (gate >= N))[None])
    logits = mixes * tl.load(alpha + 2) + tl.load(bias + mix, mask=real, other=0.0)[None]
    logits = tl.reshape(logits, [TOKENS, P, P])
    if COLUMNS_LAST:
        matrix = tl.permute(sinkhorn(tl.permute(logits, (0, 2, 1)), N, STEPS, EPS), (0, 2, 1))
    else:
        matrix = sinkhorn(logits, N, STEPS, EPS)
    matrix = tl.reshape(matrix, [TOKENS, P * P])
    tl.store(res + token[:, None] * (N * N) + (mix - 2 * N)[None], matrix, mask=lives & real[None])


@triton.jit
def whole_kernel(
    x, phi, alpha, bias, saved, pre, post, res, tokens, inner, width, x_outer, x_inner, x_stream, x_channel,
    N: tl.constexpr, P: tl.constexpr, STEPS: tl.constexpr, EPS: tl.constexpr, NORM_EPS: tl.constexpr,
    COLUMNS_LAST: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr, EACH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Everything for a block of tokens; keeps [tokens, K + 1]: the projection over r, and 1 / r."""
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    live = token < tokens
    gates, mixes, squares = _project(
        x, phi, token, live, inner, width, x_outer, x_inner, x_stream, x_channel, 0, N * tl.cdiv(width, WIDTH),
        N, P, TOKENS, WIDTH, EACH, PRECISION,
    )  # fmt: skip
    _finish(
        gates, mixes, squares, alpha, bias, saved, pre, post, res, token.to(tl.int64), live, width,
        N, P, STEPS, EPS, NORM_EPS, COLUMNS_LAST, TOKENS,
    )  # fmt: skip


@triton.jit
def split_kernel(
    x, phi, sums, tokens, inner, width, x_outer, x_inner, x_stream, x_channel, chunks,
    N: tl.constexpr, P: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr, EACH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Sums over `chunks` chunks, to sums [splits, tokens, K + 1]; grid (blocks of tokens, splits)."""
    K: tl.constexpr = N * (N + 2)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    live = token < tokens
    first = tl.program_id(1) * chunks
    end = tl.minimum(first + chunks, N * tl.cdiv(width, WIDTH))
    gates, mixes, squares = _project(
        x, phi, token, live, inner, width, x_outer, x_inner, x_stream, x_channel, first, end,
        N, P, TOKENS, WIDTH, EACH, PRECISION,
    )  # fmt: skip
    row = tl.cast(tl.program_id(1), tl.int64) * tokens + token
    gate = tl.arange(0, GATES)
    mix, real = mix_columns(N, P)
    rows = sums + row[:, None] * (K + 1)
    tl.store(rows + gate[None], gates, mask=live[:, None] & (gate < 2 * N)[None])
    tl.store(rows + mix[None], mixes, mask=live[:, None] & real[None])
    tl.store(sums + row * (K + 1) + K, squares, mask=live)


@triton.jit
def finish_kernel(
    sums, alpha, bias, saved, pre, post, res, tokens, width, splits,
    N: tl.constexpr, P: tl.constexpr, STEPS: tl.constexpr, EPS: tl.constexpr, NORM_EPS: tl.constexpr,
    COLUMNS_LAST: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Add up the splits, in order, and do what is left."""
    K: tl.constexpr = N * (N + 2)
    token = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    live = token < tokens
    gate = tl.arange(0, GATES)
    mix, real = mix_columns(N, P)
    gates = tl.zeros([TOKENS, GATES], tl.float32)
    mixes = tl.zeros([TOKENS, P * P], tl.float32)
    squares = tl.zeros([TOKENS], tl.float32)
    for split in range(splits):
        row = token + tl.cast(split, tl.int64) * tokens
        rows = sums + row[:, None] * (K + 1)
        gates += tl.load(rows + gate[None], mask=live[:, None] & (gate < 2 * N)[None], other=0.0)
        mixes += tl.load(rows + mix[None], mask=live[:, None] & real[None], other=0.0)
        squares += tl.load(sums + row * (K + 1) + K, mask=live, other=0.0)
    _finish(
        gates, mixes, squares, alpha, bias, saved, pre, post, res, token, live, width,
        N, P, STEPS, EPS, NORM_EPS, COLUMNS_LAST, TOKENS,
    )  # fmt: skip
