"""What kernels share on the chip: products at a chosen precision, Sinkhorn-Knopp forward and exact backward.

Shapes: [B, P, P], a matrix of n rows i (out) and n columns j (in) in the corner of a P x P one, P a power of two. The
rest is the identity, which every normalisation leaves alone, so no sum needs a mask. Rows are normalised last; a caller
who wants columns last hands in, and gets back, transposed matrices.

A matrix after a step is diag(u) S diag(v), S the softmax over columns (+ eps). With D = dL / d log M, a normalisation
M -> M' = M / (sum + eps) along an axis is undone, whatever eps, by D <- D - M' sum(D). Where the logits of a matrix
spread over more than fp32 probabilities hold, its block works with log S, log u and log v in fp64 instead.
"""

import triton
import triton.language as tl

from kernels.registration import interpreted

INTERPRETED = tl.constexpr(interpreted())
# see kernels/sinkhorn/reference.py
PROBABILITY_RANGE = tl.constexpr(60.0)
# up to here a backward keeps u and v of every step in registers, beyond it computes them anew for every step
UNROLLED_STEPS = tl.constexpr(32)


@triton.jit
def product(a, b, total, PRECISION: tl.constexpr):
    """total + a b for tiles of fp32, or a of bf16 or fp16; all sizes at least 16.

    "tf32" rounds what tensor cores would cut off. "bf16_split" cuts operands into bf16 halves and leaves out the
    product of the two low ones; bf16 has no low half.
    """
    if PRECISION == "bf16_split":
        a_high = a.to(tl.bfloat16)
        b_high = b.to(tl.bfloat16)
        b_low = (b - b_high.to(tl.float32)).to(tl.bfloat16)
        if a.dtype != tl.bfloat16:
            a_low = (a.to(tl.float32) - a_high.to(tl.float32)).to(tl.bfloat16)
            total = tl.dot(a_low, b_high, total)
        total = tl.dot(a_high, b_low, total)
        total = tl.dot(a_high, b_high, total)
    elif PRECISION == "tf32":
        total = tl.dot(_tf32(a), _tf32(b), total, input_precision="tf32")
    else:
        total = tl.dot(a.to(tl.float32), b, total, input_precision="ieee")
    return total


@triton.jit
def _tf32(values):
    # to the nearest of 10 bits of mantissa, which bf16 and fp16 fit into; the interpreter multiplies in fp32
    if values.dtype != tl.float32:
        rounded = values.to(tl.float32)
    elif INTERPRETED:
        rounded = values
    else:
        rounded = ((values.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return rounded


@triton.jit
def sinkhorn(logits, N: tl.constexpr, STEPS: tl.constexpr, EPS: tl.constexpr):
    """The doubly stochastic matrix of fp32 logits [B, P, P] in the corner of N x N; anything may lie beside it."""
    logits = _beside_identity(logits, N)
    if EPS == 0.0:
        if _spread(logits) > PROBABILITY_RANGE:
            matrix = _result(_log_softmax(logits.to(tl.float64)), STEPS, EPS, True).to(tl.float32)
        else:
            matrix = _result(_softmax(logits), STEPS, EPS, False)
    else:
        matrix = _result(_plus_eps(_softmax(logits), N, EPS), STEPS, EPS, False)
    return matrix


@triton.jit
def sinkhorn_backward(logits, gradient, N: tl.constexpr, STEPS: tl.constexpr, EPS: tl.constexpr):
    """Gradient of `sinkhorn` by fp32 logits [B, P, P]; `gradient` [B, P, P] is 0 beside the corner."""
    logits = _beside_identity(logits, N)
    if EPS == 0.0:
        if _spread(logits) > PROBABILITY_RANGE:
            d = _undo_logarithms(_log_softmax(logits.to(tl.float64)), gradient.to(tl.float64), STEPS).to(tl.float32)
        else:
            d = _undo_probabilities(_softmax(logits), gradient, N, STEPS, EPS)
    else:
        d = _undo_probabilities(_softmax(logits), gradient, N, STEPS, EPS)
    return d


@triton.jit
def _undo_logarithms(start, gradient, STEPS: tl.constexpr):
    return _undo_columns(_undo_recomputed(start, gradient, STEPS, 0.0, True), tl.exp(start))


@triton.jit
def _undo_probabilities(softmax, gradient, N: tl.constexpr, STEPS: tl.constexpr, EPS: tl.constexpr):
    start = _plus_eps(softmax, N, EPS)
    if STEPS <= UNROLLED_STEPS:
        d = _undo_kept(start, gradient, STEPS, EPS)
    else:
        d = _undo_recomputed(start, gradient, STEPS, EPS, False)
    if EPS > 0.0:
        # from d / d log (softmax + eps); beside the corner both are 0
        d *= softmax / tl.where(start > 0.0, start, 1.0)
    return _undo_columns(d, softmax)


@triton.jit
def _undo_kept(start, gradient, STEPS: tl.constexpr, EPS: tl.constexpr):
    u, v = _first_scalings(start, EPS, False)
    us = (u,)
    vs = (v,)
    for _ in tl.static_range(1, STEPS):
        u, v = _advance(start, u, v, EPS, False)
        us = us + (u,)
        vs = vs + (v,)
    d = gradient * _matrix(start, u, v, False)
    for back in tl.static_range(1, STEPS):
        d = _undo_rows(d, _matrix(start, us[STEPS - back], vs[STEPS - back], False))
        d = _undo_columns(d, _matrix(start, us[STEPS - back - 1], vs[STEPS - back], False))
    return _undo_rows(d, _matrix(start, us[0], vs[0], False))


@triton.jit
def _undo_recomputed(start, gradient, STEPS: tl.constexpr, EPS: tl.constexpr, LOG: tl.constexpr):
    u, v = _scalings(start, STEPS, EPS, LOG)
    d = gradient * _matrix(start, u, v, LOG)
    for back in range(1, STEPS):
        u_before, v = _first_scalings(start, EPS, LOG)
        for _ in range(1, STEPS - back):
            u_before, v = _advance(start, u_before, v, EPS, LOG)
        u, v = _advance(start, u_before, v, EPS, LOG)
        d = _undo_rows(d, _matrix(start, u, v, LOG))
        d = _undo_columns(d, _matrix(start, u_before, v, LOG))
    u, v = _first_scalings(start, EPS, LOG)
    return _undo_rows(d, _matrix(start, u, v, LOG))


@triton.jit
def _result(start, STEPS: tl.constexpr, EPS: tl.constexpr, LOG: tl.constexpr):
    u, v = _scalings(start, STEPS, EPS, LOG)
    return _matrix(start, u, v, LOG)


@triton.jit
def _scalings(start, STEPS: tl.constexpr, EPS: tl.constexpr, LOG: tl.constexpr):
    u, v = _first_scalings(start, EPS, LOG)
    for _ in range(1, STEPS):
        u, v = _advance(start, u, v, EPS, LOG)
    return u, v


@triton.jit
def _first_scalings(start, EPS: tl.constexpr, LOG: tl.constexpr):
    # the first normalisation of columns is the softmax itself
    ones = tl.full((start.shape[0], start.shape[1]), 1.0, start.dtype)
    v = ones - 1.0 if LOG else ones
    u = -_log_sum_exp(start, 2) if LOG else 1.0 / (tl.sum(start, 2) + EPS)
    return u, v


@triton.jit
def _advance(start, u, v, EPS: tl.constexpr, LOG: tl.constexpr):
    if LOG:
        v = -_log_sum_exp(start + u[:, :, None], 1)
        u = -_log_sum_exp(start + v[:, None, :], 2)
    else:
        v = _rescale(v, tl.sum(start * u[:, :, None], 1), EPS)
        u = _rescale(u, tl.sum(start * v[:, None, :], 2), EPS)
    return u, v


@triton.jit
def _rescale(scaling, total, EPS: tl.constexpr):
    return 1.0 / total if EPS == 0.0 else scaling / (scaling * total + EPS)


@triton.jit
def _matrix(start, u, v, LOG: tl.constexpr):
    return tl.exp(start + u[:, :, None] + v[:, None, :]) if LOG else u[:, :, None] * start * v[:, None, :]


@triton.jit
def _undo_rows(d, matrix):
    return d - matrix * tl.sum(d, 2)[:, :, None]


@triton.jit
def _undo_columns(d, matrix):
    return d - matrix * tl.sum(d, 1)[:, None, :]


@triton.jit
def _beside_identity(logits, N: tl.constexpr):
    i = tl.arange(0, logits.shape[1])[None, :, None]
    j = tl.arange(0, logits.shape[2])[None, None, :]
    return tl.where((i < N) & (j < N), logits, tl.where(i == j, 0.0, float("-inf")))


@triton.jit
def _plus_eps(softmax, N: tl.constexpr, EPS: tl.constexpr):
    if EPS == 0.0:
        return softmax
    i = tl.arange(0, softmax.shape[1])[None, :, None]
    j = tl.arange(0, softmax.shape[2])[None, None, :]
    return tl.where((i < N) & (j < N), softmax + EPS, softmax)


@triton.jit
def _spread(logits):
    # -inf is beside the corner alone; the zeros of the identity there widen nothing beyond what exp can hold
    high = tl.max(tl.max(logits, 2), 1)
    low = tl.min(tl.min(tl.where(logits == float("-inf"), float("inf"), logits), 2), 1)
    return tl.max(high - low, 0)


@triton.jit
def _softmax(logits):
    exponentials = tl.exp(logits - tl.max(logits, 1)[:, None, :])
    return exponentials / tl.sum(exponentials, 1)[:, None, :]


@triton.jit
def _log_softmax(logits):
    return logits - _log_sum_exp(logits, 1)[:, None, :]


@triton.jit
def _log_sum_exp(values, AXIS: tl.constexpr):
    largest = tl.max(values, AXIS)
    return largest + tl.log(tl.sum(tl.exp(values - tl.expand_dims(largest, AXIS)), AXIS))
