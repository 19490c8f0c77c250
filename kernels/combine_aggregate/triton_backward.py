"""Backward kernels of `combine_aggregate`: through the coefficients, then through the streams.

With G = dL/dx' in total, from x' itself, from z = H_pre x' and from the coefficients of x',

    G_ic = dL/dx'_ic + pre_i dz_c + sum_k q_k phi_ic,k + a x'_ic,
    q = (dL/dp) / r,  a = -(dL/dp . p) / (D r^2),  p = x' phi / r,  D = n C,

the rest is the backward of `combine` with G in the place of its upstream. The first kernel makes q and a, from
dL/dpre + <dz, x'> and the other coefficients' gradients; the second forms G tile by tile and never stores it.
"""

import triton
import triton.language as tl

from kernels.combine_aggregate.triton_forward import load_matrix, load_phi, written_streams
from kernels.device import product, sinkhorn_backward
from kernels.streams import lane_sums, load_streams, row_offsets, weighted_sum


@triton.jit
def coefficients_kernel(
    d_z, d_pre, d_post, d_res, out, sums, alpha, bias, q, d_affine, tokens, inner, width, norm_eps,
    d_outer, d_inner, d_channel,
    N: tl.constexpr, P: tl.constexpr, STEPS: tl.constexpr, EPS: tl.constexpr, COLUMNS_LAST: tl.constexpr,
    TOKENS: tl.constexpr, WIDTH: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """q and a as [K + 1, tokens], and this block's share of dbias and dalpha as [K + 3]; grid (blocks of tokens,)."""
    K: tl.constexpr = N * (N + 2)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    live = token < tokens
    d_rows = d_z + row_offsets(token, inner, d_outer, d_inner)[:, None]
    token = token.to(tl.int64)
    zero = tl.zeros([TOKENS, WIDTH // EACH], tl.float32)
    lanes = ()
    for _ in tl.static_range(N):
        lanes = lanes + (zero,)
    for start in range(0, width, WIDTH):
        channel = (start + tl.arange(0, WIDTH)).to(tl.int64)
        mask = live[:, None] & (channel < width)[None]
        gradient = tl.load(d_rows + channel[None] * d_channel, mask=mask, other=0.0).to(tl.float32)
        streams = load_streams(out + token[:, None] * N * width + channel[None], width, mask, N)
        added = ()
        for j in tl.static_range(N):
            added = added + (lanes[j] + lane_sums(gradient * streams[j], TOKENS, WIDTH // EACH, EACH),)
        lanes = added

    rows = tl.cast(tokens, tl.int64)
    squares = tl.load(sums + K * rows + token, mask=live, other=0.0)
    inverse = 1.0 / tl.sqrt(squares / (N * width) + norm_eps)
    d_affine += tl.program_id(0).to(tl.int64) * (K + 3)
    along = tl.zeros([TOKENS], tl.float32)
    for section in tl.static_range(2):
        gate = tl.load(alpha + section).to(tl.float32)
        d_gate = tl.zeros([TOKENS], tl.float32)
        for i in tl.static_range(N):
            k = section * N + i
            p = tl.load(sums + k * rows + token, mask=live, other=0.0) * inverse
            value = tl.sigmoid(p * gate + tl.load(bias + k).to(tl.float32))
            if section == 0:
                upstream = tl.load(d_pre + token * N + i, mask=live, other=0.0) + tl.sum(lanes[i], 1)
            else:
                upstream = 2.0 * tl.load(d_post + token * N + i, mask=live, other=0.0)
            d_logit = tl.where(live, upstream * value * (1.0 - value), 0.0)
            tl.store(q + k * rows + token, d_logit * gate * inverse, mask=live)
            tl.store(d_affine + k, tl.sum(d_logit, 0))
            d_gate += d_logit * p
        tl.store(d_affine + K + section, tl.sum(d_gate, 0))
        along += d_gate * gate

    i = tl.arange(0, P)[None, :, None]
    j = tl.arange(0, P)[None, None, :]
    inside = (i < N) & (j < N)
    entry = j * N + i if COLUMNS_LAST else i * N + j
    mask = live[:, None, None] & inside
    offsets = (2 * N + entry) * rows + token[:, None, None]
    gate = tl.load(alpha + 2).to(tl.float32)
    shift = tl.load(bias + 2 * N + entry, mask=inside, other=0.0).to(tl.float32)
    p = tl.load(sums + offsets, mask=mask, other=0.0) * inverse[:, None, None]
    upstream = tl.load(d_res + token[:, None, None] * (N * N) + entry, mask=mask, other=0.0)
    d_logit = sinkhorn_backward(p * gate + shift, upstream, N, STEPS, EPS)
    d_logit = tl.where(mask, d_logit, 0.0)
    tl.store(q + offsets, d_logit * gate * inverse[:, None, None], mask=mask)
    tl.store(d_affine + 2 * N + entry, tl.sum(d_logit, 0)[None], mask=inside)
    d_gate = tl.sum(tl.sum(d_logit * p, 2), 1)
    tl.store(d_affine + K + 2, tl.sum(d_gate, 0))
    along += d_gate * gate
    tl.store(q + K * rows + token, -along * inverse * inverse / (N * width), mask=live)


@triton.jit
def streams_kernel(
    d_out, d_z, x, y, post_before, res_before, pre, phi, q, d_x, d_y, d_coefficients, d_phi, tokens, inner, width,
    d_outer, d_inner, d_stream, d_channel, dz_outer, dz_inner, dz_channel,
    x_outer, x_inner, x_stream, x_channel, y_outer, y_inner, y_channel,
    N: tl.constexpr, COLUMNS: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dx and dy, and this program's share of dpost, dres (its channels) and dphi (its tokens).

    Grid (blocks of channels, groups of tokens): the block's part of phi and of dphi stays on chip over the tokens.
    """
    K: tl.constexpr = N * (N + 2)
    rows = tl.cast(tokens, tl.int64)
    k = tl.arange(0, COLUMNS)
    channel = (tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)).to(tl.int64)
    block_phi = load_phi(phi, channel, width, N, COLUMNS)
    d_coefficients += tl.program_id(0).to(tl.int64) * N * (N + 1) * rows
    zero = tl.zeros([WIDTH, COLUMNS], tl.float32)
    phi_sums = ()
    for _ in tl.static_range(N):
        phi_sums = phi_sums + (zero,)
    for first in range(tl.program_id(1) * TOKENS, tokens, tl.num_programs(1) * TOKENS):
        token = first + tl.arange(0, TOKENS)
        live = token < tokens
        mask = live[:, None] & (channel < width)[None]
        d_rows = d_out + row_offsets(token, inner, d_outer, d_inner)[:, None] + channel[None] * d_channel
        z_rows = d_z + row_offsets(token, inner, dz_outer, dz_inner)[:, None] + channel[None] * dz_channel
        x_rows = x + row_offsets(token, inner, x_outer, x_inner)[:, None] + channel[None] * x_channel
        y_rows = y + row_offsets(token, inner, y_outer, y_inner)[:, None] + channel[None] * y_channel
        token = token.to(tl.int64)
        gates = load_streams(post_before + token * N, 1, live, N)
        matrix = load_matrix(res_before, token, live, N)
        weights = load_streams(pre + token * N, 1, live, N)
        along = tl.load(q + K * rows + token, mask=live, other=0.0)
        d_projected = tl.load(
            q + k.to(tl.int64)[None] * rows + token[:, None], mask=live[:, None] & (k < K)[None], other=0.0
        )
        # x' again from x and y: five values read where x' itself would be four more
        tiles = written_streams(x_rows, y_rows, x_stream, mask, gates, matrix, d_x.dtype.element_ty, N)
        upstream = load_streams(d_rows, d_stream, mask, N)
        d_read = tl.load(z_rows, mask=mask, other=0.0).to(tl.float32)
        totals = ()
        more_phi = ()
        for i in tl.static_range(N):
            direct = upstream[i] + weights[i][:, None] * d_read + along[:, None] * tiles[i].to(tl.float32)
            totals = totals + (product(d_projected, tl.trans(block_phi[i]), direct, PRECISION),)
            more_phi = more_phi + (product(tl.trans(tiles[i]), d_projected, phi_sums[i], PRECISION),)
        phi_sums = more_phi

        d_written = weighted_sum(gates, totals, N)
        tl.store(d_y + token[:, None] * width + channel[None], d_written.to(d_y.dtype.element_ty), mask=mask)
        streams = load_streams(x_rows, x_stream, mask, N)
        written = tl.load(y_rows, mask=mask, other=0.0).to(tl.float32)
        for i in tl.static_range(N):
            tl.store(d_coefficients + i * rows + token, tl.sum(totals[i] * written, 1), mask=live)
        for j in tl.static_range(N):
            column = ()
            for i in tl.static_range(N):
                column = column + (matrix[i][j],)
            value = weighted_sum(column, totals, N).to(d_x.dtype.element_ty)
            tl.store(d_x + (token[:, None] * N + j) * width + channel[None], value, mask=mask)
            for i in tl.static_range(N):
                value = tl.sum(totals[i] * streams[j], 1)
                tl.store(d_coefficients + (N + i * N + j) * rows + token, value, mask=live)
    d_phi += tl.program_id(1).to(tl.int64) * N * width * K
    for i in tl.static_range(N):
        pointers = d_phi + (i * tl.cast(width, tl.int64) + channel[:, None]) * K + k[None]
        tl.store(pointers, phi_sums[i], mask=(channel < width)[:, None] & (k < K)[None])
