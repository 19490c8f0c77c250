"""The equations of `kernels` once more, as plain einsums and autograd, to be run in fp64."""

import torch
from torch import Tensor


def sinkhorn(logits: Tensor, *, steps: int = 20, last: str = "rows", eps: float = 0.0) -> Tensor:
    """Normalise columns, then rows, `steps` times: by logarithms where eps is 0, else as DeepSeek-V4."""
    first, second = (-2, -1) if last == "rows" else (-1, -2)
    if eps == 0.0:
        for _ in range(steps):
            logits = logits - logits.logsumexp(first, keepdim=True)
            logits = logits - logits.logsumexp(second, keepdim=True)
        return logits.exp()
    matrix = logits.softmax(first) + eps
    for step in range(steps):
        if step > 0:
            matrix = matrix / (matrix.sum(first, keepdim=True) + eps)
        matrix = matrix / (matrix.sum(second, keepdim=True) + eps)
    return matrix


def hyper_coefficients(
    x: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    *,
    steps: int = 20,
    last: str = "rows",
    eps: float = 0.0,
    norm_eps: float = 1e-20,
) -> tuple[Tensor, Tensor, Tensor]:
    """H_pre, H_post, H_res of arXiv 2512.24880, equations 5 to 8, with one projection at a time."""
    n, width = x.shape[-2:]
    v = x.reshape(*x.shape[:-2], n * width)
    v = v / (v.square().mean(-1, keepdim=True) + norm_eps).sqrt()
    sections = [n, n, n * n]
    logits = [
        a * torch.einsum("...d,dk->...k", v, p) + b
        for a, p, b in zip(alpha, phi.split(sections, 1), bias.split(sections), strict=True)
    ]
    res = sinkhorn(logits[2].unflatten(-1, (n, n)), steps=steps, last=last, eps=eps)
    return logits[0].sigmoid() + eps, 2 * logits[1].sigmoid(), res


def aggregate(x: Tensor, pre: Tensor) -> Tensor:
    """H_pre x."""
    return torch.einsum("...n,...nc->...c", pre, x)


def combine(x: Tensor, y: Tensor, post: Tensor, res: Tensor) -> Tensor:
    """H_res x + H_post^T y."""
    return torch.einsum("...oi,...ic->...oc", res, x) + torch.einsum("...o,...c->...oc", post, y)
