"""The dynamic coefficients of manifold-constrained Hyper-Connections."""

from typing import Literal, NamedTuple

from torch import Tensor

from kernels.dispatch import (
    Implementation,
    Last,
    require,
    require_floating,
    require_implementation,
    require_normalisation,
    require_streams,
    takes_triton,
    without_autocast,
)
from kernels.hyper_coefficients import reference

Precision = Literal["tf32", "bf16_split", "ieee"]


class HyperCoefficients(NamedTuple):
    """What one sublayer reads with (pre [..., n]), writes with (post [..., n]) and mixes by (res [..., out, in])."""

    pre: Tensor
    post: Tensor
    res: Tensor


def hyper_coefficients(
    x: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    *,
    steps: int = 20,
    last: Last = "rows",
    eps: float = 0.0,
    norm_eps: float = 1e-20,
    precision: Precision = "tf32",
    impl: Implementation = "auto",
) -> HyperCoefficients:
    """Compute H_pre, H_post and H_res of mHC from the streams.

    With v = vec(x) / sqrt(mean(vec(x)^2) + norm_eps) and (h_pre, h_post, h_res) = alpha (v phi) + bias:
    H_pre = sigmoid(h_pre) + eps, H_post = 2 sigmoid(h_post), H_res = sinkhorn(mat(h_res)) (arXiv 2512.24880, eq. 5-8).

    Args:
        x: streams [..., n, C], any floating dtype.
        phi: projection [n C, n (n + 2)]; columns in the order pre, post, res (row-major, [out, in]).
        alpha: gating factors [3] of pre, post, res.
        bias: [n (n + 2)], ordered as the columns of phi.
        steps: as in `sinkhorn`.
        last: as in `sinkhorn`.
        eps: as in `sinkhorn`; it is also added to H_pre, as DeepSeek-V4 does.
        norm_eps: added to the mean square; 1e-20 in the paper, where an all-zero token has a gradient of 1e7.
        precision: of the products with phi in the Triton kernels: "tf32", "bf16_split" (operands as sums of two bf16,
            16 bits of them kept) or "ieee" fp32. Elsewhere products are those of torch at its own settings.
        impl: "auto" (the fastest that runs here), "reference", "native" (C, on CPU) or "triton".

    Returns:
        HyperCoefficients (pre [..., n], post [..., n], res [..., n, n]) in fp32 (fp64 for fp64 x).

    Raises:
        ValueError: a shape, dtype or option out of range, by name.
        RuntimeError: `impl="triton"` without Triton, or on a CPU tensor outside its interpreter.
    """
    name = "hyper_coefficients"
    require_implementation(name, impl)
    require_floating(name, x=x, phi=phi, alpha=alpha, bias=bias)
    require(x.dim() >= 2, name, "x", "[..., n, C]", list(x.shape))
    n, width = x.shape[-2:]
    require_streams(name, "x [..., n, C]", n)
    columns = n * (n + 2)
    sizes = [n * width, columns]
    require(list(phi.shape) == sizes, name, "phi", f"[n C, n (n + 2)] = {sizes}", list(phi.shape))
    require(alpha.shape == (3,), name, "alpha", "[3]", list(alpha.shape))
    require(bias.shape == (columns,), name, "bias", f"[n (n + 2)] = {[columns]}", list(bias.shape))
    require_normalisation(name, steps, last, eps)
    require(norm_eps > 0.0, name, "norm_eps", "positive", norm_eps)
    choices = ("tf32", "bf16_split", "ieee")
    require(precision in choices, name, "precision", "'tf32', 'bf16_split' or 'ieee'", repr(precision))
    fused = takes_triton(name, impl, x)
    with without_autocast(x.device):
        if fused:
            from kernels.hyper_coefficients import triton

            return HyperCoefficients(
                *triton.hyper_coefficients(
                    x, phi, alpha, bias, steps=steps, last=last, eps=eps, norm_eps=norm_eps, precision=precision
                )
            )
        return HyperCoefficients(
            *reference.hyper_coefficients(
                x, phi, alpha, bias, steps=steps, last=last, eps=eps, norm_eps=norm_eps, impl=impl
            )
        )
