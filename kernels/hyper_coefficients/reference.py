"""H_pre, H_post and H_res in plain torch; the root mean square divides after the projection, as in the paper."""

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import Implementation, Last, backward_without_autocast, compute_dtype
from kernels.sinkhorn import sinkhorn


def hyper_coefficients(
    x: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    *,
    steps: int,
    last: Last,
    eps: float,
    norm_eps: float,
    impl: Implementation,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `kernels.hyper_coefficients`; `impl` is that of the Sinkhorn inside."""
    n = x.shape[-2]
    dtype = compute_dtype(x)
    flat, phi, alpha, bias = (tensor.to(dtype) for tensor in (x.flatten(-2), phi, alpha, bias))
    projection = normalised_projection(flat, phi, norm_eps)
    gates = torch.repeat_interleave(alpha, alpha.new_tensor([n, n, n * n], dtype=torch.long), output_size=n * (n + 2))
    logits = torch.addcmul(bias, projection, gates)
    pre, post, res = logits.split([n, n, n * n], -1)
    pre = torch.sigmoid(pre) + eps if eps else torch.sigmoid(pre)
    return pre, 2 * torch.sigmoid(post), sinkhorn(res.unflatten(-1, (n, n)), steps=steps, last=last, eps=eps, impl=impl)


def normalised_projection(x: Tensor, phi: Tensor, norm_eps: float) -> Tensor:
    """(x / sqrt(mean(x^2) + norm_eps)) phi for x [..., D] and phi [D, K] of one dtype: [..., K]."""
    return _NormalisedProjection.apply(x.reshape(-1, x.shape[-1]), phi, norm_eps).view(*x.shape[:-1], phi.shape[1])


class _NormalisedProjection(torch.autograd.Function):
    """(x / sqrt(mean(x^2) + eps)) phi for x [N, D], with nothing the size of x made beside its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, phi: Tensor, eps: float) -> Tensor:
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1]
        inverse_rms = (mean_square + eps).rsqrt()
        projection = (x @ phi) * inverse_rms
        ctx.save_for_backward(x, phi, inverse_rms, projection)
        return projection

    @staticmethod
    @torch.autograd.function.once_differentiable
    @backward_without_autocast
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        # d inverse_rms / dx = -x inverse_rms^3 / D
        x, phi, inverse_rms, projection = ctx.saved_tensors
        d_projected = gradient * inverse_rms
        d_phi = (d_projected.mT @ x).mT.contiguous() if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, d_phi, None
        along_x = (gradient * projection).sum(-1, keepdim=True) * inverse_rms.square() / -x.shape[-1]
        return (d_projected @ phi.mT).addcmul_(x, along_x), d_phi, None
