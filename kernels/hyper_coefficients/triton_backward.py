"""Kernels of `hyper_coefficients`, backward: through gates and Sinkhorn, then both products in one pass over x.

With p = x phi / r (saved), g = dL/dp and D = n C: dphi = x^T (g / r), dx = (g / r) phi^T - x (g . p) / (D r^2).
"""

import triton
import triton.language as tl

from kernels.device import product, sinkhorn_backward
from kernels.hyper_coefficients.triton_forward import GATES, load_phi, mix_columns
from kernels.streams import row_offsets


@triton.jit
def coefficients_kernel(
    d_pre, d_post, d_res, saved, alpha, bias, q, d_affine, tokens, width,
    N: tl.constexpr, P: tl.constexpr, STEPS: tl.constexpr, EPS: tl.constexpr, COLUMNS_LAST: tl.constexpr,
    TOKENS: tl.constexpr,
):  # fmt: skip
    """Leave q [tokens, K + 1]: g / r and (g . p) / (D r^2); and parts of d_bias and d_alpha [blocks, K + 3]."""
    K: tl.constexpr = N * (N + 2)
    token = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    live = token < tokens
    lives = live[:, None]
    gate = tl.arange(0, GATES)
    is_pre = gate < N
    is_gate = gate < 2 * N
    is_post = is_gate & (gate >= N)
    mix, real = mix_columns(N, P)
    rows = saved + token[:, None] * (K + 1)
    gates = tl.load(rows + gate[None], mask=lives & is_gate[None], other=0.0)
    mixes = tl.load(rows + mix[None], mask=lives & real[None], other=0.0)
    inverse = tl.load(saved + token * (K + 1) + K, mask=live, other=0.0)

    alphas = tl.where(is_pre, tl.load(alpha), tl.load(alpha + 1))
    values = tl.sigmoid(gates * alphas[None] + tl.load(bias + gate, mask=is_gate, other=0.0)[None])
    upstream = tl.load(d_pre + token[:, None] * N + gate[None], mask=lives & is_pre[None], other=0.0)
    written = tl.load(d_post + token[:, None] * N + (gate - N)[None], mask=lives & is_post[None], other=0.0)
    d_gates = (upstream + 2.0 * written) * values * (1.0 - values)

    alpha_res = tl.load(alpha + 2)
    logits = mixes * alpha_res + tl.load(bias + mix, mask=real, other=0.0)[None]
    pointers = d_res + token[:, None] * (N * N) + (mix - 2 * N)[None]
    upstream = tl.load(pointers, mask=lives & real[None], other=0.0)
    logits = tl.reshape(logits, [TOKENS, P, P])
    upstream = tl.reshape(upstream, [TOKENS, P, P])
    if COLUMNS_LAST:
        transposed = sinkhorn_backward(tl.permute(logits, (0, 2, 1)), tl.permute(upstream, (0, 2, 1)), N, STEPS, EPS)
        d_mixes = tl.permute(transposed, (0, 2, 1))
    else:
        d_mixes = sinkhorn_backward(logits, upstream, N, STEPS, EPS)
    d_mixes = tl.reshape(d_mixes, [TOKENS, P * P])
    d_mixes = tl.where(real[None], d_mixes, 0.0)

    part = d_affine + tl.cast(tl.program_id(0), tl.int64) * (K + 3)
    tl.store(part + gate, tl.sum(d_gates, 0), mask=is_gate)
    tl.store(part + mix, tl.sum(d_mixes, 0), mask=real)
    along_gates = d_gates * gates
    along_mixes = d_mixes * mixes
    by_gate = tl.sum(along_gates, 0)
    tl.store(part + K, tl.sum(tl.where(is_pre, by_gate, 0.0), 0))
    tl.store(part + K + 1, tl.sum(tl.where(is_post, by_gate, 0.0), 0))
    tl.store(part + K + 2, tl.sum(tl.sum(along_mixes, 1), 0))

    along = tl.sum(along_gates * alphas[None], 1) + alpha_res * tl.sum(along_mixes, 1)
    rows = q + token[:, None] * (K + 1)
    tl.store(rows + gate[None], d_gates * alphas[None] * inverse[:, None], mask=lives & is_gate[None])
    tl.store(rows + mix[None], d_mixes * alpha_res * inverse[:, None], mask=lives & real[None])
    along = along * inverse * inverse / tl.cast(N * width, tl.float32)
    tl.store(q + token * (K + 1) + K, along, mask=live)


@triton.jit
def streams_kernel(
    x, phi, q, d_x, d_phi, tokens, inner, width, x_outer, x_inner, x_stream, x_channel, blocks_of_tokens,
    N: tl.constexpr, P: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dx, and a part of dphi [groups, n C, K], for WIDTH channels of a stream; grid (chunks, groups of tokens)."""
    K: tl.constexpr = N * (N + 2)
    blocks = tl.cdiv(width, WIDTH)
    stream = tl.program_id(0) // blocks
    channel = ((tl.program_id(0) - stream * blocks) * WIDTH + tl.arange(0, WIDTH)).to(tl.int64)
    filled = channel < width
    gate = tl.arange(0, GATES)
    is_gate = gate < 2 * N
    mix, real = mix_columns(N, P)
    phi_gates, phi_mixes = load_phi(phi, stream, channel, width, N, P)
    d_phi_gates = tl.zeros([WIDTH, GATES], tl.float32)
    d_phi_mixes = tl.zeros([WIDTH, P * P], tl.float32)
    first = tl.program_id(1) * blocks_of_tokens
    for block in range(first, tl.minimum(first + blocks_of_tokens, tl.cdiv(tokens, TOKENS))):
        token = block * TOKENS + tl.arange(0, TOKENS)
        live = token < tokens
        mask = live[:, None] & filled[None]
        pointers = x + row_offsets(token, inner, x_outer, x_inner)[:, None] + tl.cast(stream, tl.int64) * x_stream
        tile = tl.load(pointers + channel[None] * x_channel, mask=mask, other=0.0)
        token = token.to(tl.int64)
        rows = q + token[:, None] * (K + 1)
        q_gates = tl.load(rows + gate[None], mask=live[:, None] & is_gate[None], other=0.0)
        q_mixes = tl.load(rows + mix[None], mask=live[:, None] & real[None], other=0.0)
        along = tl.load(q + token * (K + 1) + K, mask=live, other=0.0)
        value = product(q_gates, tl.trans(phi_gates), tile.to(tl.float32) * -along[:, None], PRECISION)
        value = product(q_mixes, tl.trans(phi_mixes), value, PRECISION)
        pointers = d_x + (token[:, None] * N + stream) * width + channel[None]
        tl.store(pointers, value.to(d_x.dtype.element_ty), mask=mask)
        d_phi_gates = product(tl.trans(tile), q_gates, d_phi_gates, PRECISION)
        d_phi_mixes = product(tl.trans(tile), q_mixes, d_phi_mixes, PRECISION)
    row = tl.cast(tl.program_id(1) * N + stream, tl.int64) * width + channel
    rows = d_phi + row[:, None] * K
    tl.store(rows + gate[None], d_phi_gates, mask=filled[:, None] & is_gate[None])
    tl.store(rows + mix[None], d_phi_mixes, mask=filled[:, None] & real[None])
