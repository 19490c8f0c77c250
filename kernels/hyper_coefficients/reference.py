"""H_pre, H_post and H_res in plain torch; the root mean square divides after the projection, as in the paper."""

import torch
from torch import Tensor

from kernels.dispatch import compute_dtype
from kernels.sinkhorn.reference import sinkhorn


def hyper_coefficients(
    x: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, *, steps: int, last: str, eps: float, norm_eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See `kernels.hyper_coefficients`."""
    n = x.shape[-2]
    dtype = compute_dtype(x)
    flat, phi, alpha, bias = (tensor.to(dtype) for tensor in (x.flatten(-2), phi, alpha, bias))
    rms = (flat.square().mean(-1, keepdim=True) + norm_eps).rsqrt()
    projection = (flat @ phi) * rms
    pre, post, res = projection.split([n, n, n * n], -1)
    bias_pre, bias_post, bias_res = bias.split([n, n, n * n])
    pre = torch.sigmoid(alpha[0] * pre + bias_pre) + eps
    post = 2 * torch.sigmoid(alpha[1] * post + bias_post)
    logits = (alpha[2] * res + bias_res).unflatten(-1, (n, n))
    return pre, post, sinkhorn(logits, steps=steps, last=last, eps=eps)
