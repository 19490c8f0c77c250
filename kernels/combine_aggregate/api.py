"""The boundary between two sublayers: what one writes to the streams and the next one reads from them."""

from torch import Tensor

from kernels.combine_aggregate import reference
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
from kernels.hyper_coefficients.api import Precision


def combine_aggregate(
    x: Tensor,
    y: Tensor,
    post: Tensor,
    res: Tensor,
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Write with one sublayer's coefficients, compute the next one's and read with them (arXiv 2512.24880, eq. 3-8).

    x' = H_res x + H_post^T y; (H_pre', H_post', H_res') = hyper_coefficients(x'); z = H_pre' x'. The coefficients are
    those of x' as it is stored, in the dtype of x.

    Args:
        x: streams [..., n, C].
        y: the sublayer's output [..., C].
        post: its weights [..., n].
        res: its mixing matrices [..., n, n], [out, in].
        phi: the next sublayer's projection [n C, n (n + 2)], as in `hyper_coefficients`.
        alpha: its gating factors [3].
        bias: its bias [n (n + 2)].
        steps: as in `sinkhorn`.
        last: as in `sinkhorn`.
        eps: as in `hyper_coefficients`.
        norm_eps: as in `hyper_coefficients`.
        precision: of the products with phi in the Triton kernels, as in `hyper_coefficients`.
        impl: "auto" (the fastest that runs here), "reference", "native" (C, on CPU) or "triton".

    Returns:
        (x' [..., n, C], z [..., C]) in the dtype of `x` and (pre [..., n], post [..., n], res [..., n, n]) of the next
        sublayer in fp32 (fp64 for fp64 x).

    Raises:
        ValueError: a shape, dtype or option out of range, by name.
        RuntimeError: `impl="triton"` without Triton, or on a CPU tensor outside its interpreter.
    """
    name = "combine_aggregate"
    require_implementation(name, impl)
    require_floating(name, x=x, y=y, post=post, res=res, phi=phi, alpha=alpha, bias=bias)
    require(x.dim() >= 2, name, "x", "[..., n, C]", list(x.shape))
    *tokens, n, width = x.shape
    require_streams(name, "x [..., n, C]", n)
    columns = n * (n + 2)
    for argument, tensor, meaning, shape in (
        ("y", y, "[..., C]", [*tokens, width]),
        ("post", post, "[..., n]", [*tokens, n]),
        ("res", res, "[..., n, n]", [*tokens, n, n]),
        ("phi", phi, "[n C, n (n + 2)]", [n * width, columns]),
        ("alpha", alpha, "[3]", [3]),
        ("bias", bias, "[n (n + 2)]", [columns]),
    ):
        require(list(tensor.shape) == shape, name, argument, f"{meaning} = {shape}", list(tensor.shape))
    require_normalisation(name, steps, last, eps)
    require(norm_eps > 0.0, name, "norm_eps", "positive", norm_eps)
    choices = ("tf32", "bf16_split", "ieee")
    require(precision in choices, name, "precision", "'tf32', 'bf16_split' or 'ieee'", repr(precision))
    fused = takes_triton(name, impl, x)
    with without_autocast(x.device):
        if fused:
            from kernels.combine_aggregate import triton

            return triton.combine_aggregate(
                x, y, post, res, phi, alpha, bias,
                steps=steps, last=last, eps=eps, norm_eps=norm_eps, precision=precision,
            )  # fmt: skip
        return reference.combine_aggregate(
            x, y, post, res, phi, alpha, bias, steps=steps, last=last, eps=eps, norm_eps=norm_eps, impl=impl
        )
