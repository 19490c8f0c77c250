"""Sinkhorn-Knopp by scaling vectors, with the exact backward of the truncated iteration.

Shapes: n rows i (out), n columns j (in), N matrices. All work is token-last, [n, n, N], so that every sum over a row
or a column runs along contiguous tokens. `last="columns"` is the transposed problem.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import compute_dtype, has_memory_here

# beyond this spread of logits inside a matrix, fp32 probabilities lose whole rows to 0/0
PROBABILITY_RANGE = 60.0


def sinkhorn(logits: Tensor, *, steps: int, last: str, eps: float) -> Tensor:
    """See `kernels.sinkhorn`; every [..., n, n] is one matrix."""
    n = logits.shape[-1]
    if logits.numel() == 0 or logits.device.type == "meta":
        return logits.clone()  # of meta tensors there are only shapes, and there is no matrix product to count
    if last == "columns":
        logits = logits.transpose(-1, -2)
    logits_ijN = logits.reshape(-1, n, n).permute(1, 2, 0).to(compute_dtype(logits))
    if eps == 0.0 and _needs_logarithms(logits_ijN):
        matrix_ijN = _LogarithmSinkhorn.apply(logits_ijN.double(), steps).to(logits_ijN.dtype)
    else:
        matrix_ijN = _ScalingSinkhorn.apply(logits_ijN.contiguous(), steps, eps)
    matrix = matrix_ijN.permute(2, 0, 1).reshape(logits.shape).to(logits.dtype)
    return matrix.transpose(-1, -2) if last == "columns" else matrix


def _needs_logarithms(logits_ijN: Tensor) -> bool:
    # only on CPU is a look at the values free; elsewhere (CUDA, meta, inside a compiled graph) stay safe
    if not has_memory_here(logits_ijN):
        return True
    flat = logits_ijN.detach().flatten(0, 1)
    return bool((flat.amax(0) - flat.amin(0)).amax() > PROBABILITY_RANGE)


class _ScalingSinkhorn(torch.autograd.Function):
    """M = diag(u) M_0 diag(v), M_0 = softmax over columns + eps; u and v of every step are kept, no matrix is."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, steps: int, eps: float) -> Tensor:
        softmax = torch.softmax(logits, 0)
        start = softmax + eps if eps else softmax
        v = torch.ones_like(start[0])
        u = 1 / (start.sum(1) + eps)
        us, vs = [u], [v]
        for _ in range(steps - 1):
            v = v / (v * (start * u[:, None]).sum(0) + eps) if eps else 1 / (start * u[:, None]).sum(0)
            u = u / (u * (start * v[None]).sum(1) + eps) if eps else 1 / (start * v[None]).sum(1)
            us.append(u)
            vs.append(v)
        ctx.save_for_backward(softmax, *us, *vs)
        ctx.eps = eps
        return u[:, None] * start * v[None]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # a, b: gradients with respect to log u and log v. From u' = u / (u (M_0 v) + eps):
        # d(M_0 v) = -a u', and with eps a share a (1 - u' (M_0 v)) stays with the earlier u
        softmax, *scalings = ctx.saved_tensors
        eps = ctx.eps
        us, vs = scalings[: len(scalings) // 2], scalings[len(scalings) // 2 :]
        start = softmax + eps if eps else softmax
        d_start = gradient * us[-1][:, None] * vs[-1][None]
        weighted = d_start * start
        a, b = weighted.sum(1), weighted.sum(0)
        for t in range(len(us) - 1, -1, -1):
            d_row = -a * us[t]
            d_start.addcmul_(d_row[:, None], vs[t][None])
            b = b + vs[t] * (start * d_row[:, None]).sum(0)
            a = a * (1 - us[t] * (start * vs[t][None]).sum(1)) if eps else torch.zeros_like(a)
            if t == 0:
                break  # the first column normalisation is the softmax itself
            d_column = -b * vs[t]
            d_start.addcmul_(us[t - 1][:, None], d_column[None])
            a = a + us[t - 1] * (start * d_column[None]).sum(1)
            b = b * (1 - vs[t] * (start * us[t - 1][:, None]).sum(0)) if eps else torch.zeros_like(b)
        d_logits = softmax * d_start
        return d_logits - softmax * d_logits.sum(0), None, None


class _LogarithmSinkhorn(torch.autograd.Function):
    """The same with log u and log v, for logits whose exponentials leave the range of fp32; in fp64."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, steps: int) -> Tensor:
        log_u = torch.zeros_like(logits[:, 0])
        log_us, log_vs = [log_u], []
        for _ in range(steps):
            log_v = -torch.logsumexp(logits + log_u[:, None], 0)
            log_u = -torch.logsumexp(logits + log_v[None], 1)
            log_us.append(log_u)
            log_vs.append(log_v)
        ctx.save_for_backward(logits, *log_us, *log_vs)
        return (logits + log_u[:, None] + log_v[None]).exp()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, *scalings = ctx.saved_tensors
        steps = len(scalings) // 2
        log_us, log_vs = scalings[: steps + 1], scalings[steps + 1 :]
        d_logits = gradient * (logits + log_us[-1][:, None] + log_vs[-1][None]).exp()
        a, b = d_logits.sum(1), d_logits.sum(0)
        for t in range(steps - 1, -1, -1):
            row_step = a[:, None] * (logits + log_us[t + 1][:, None] + log_vs[t][None]).exp()
            d_logits -= row_step
            b = b - row_step.sum(0)
            column_step = b[None] * (logits + log_us[t][:, None] + log_vs[t][None]).exp()
            d_logits -= column_step
            a, b = -column_step.sum(1), torch.zeros_like(b)
        return d_logits, None
