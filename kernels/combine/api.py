"""What a sublayer's output does to the streams: mix them and add it to each."""

from torch import Tensor

from kernels.combine import reference
from kernels.dispatch import (
    Implementation,
    require,
    require_floating,
    require_implementation,
    require_streams,
    takes_triton,
    without_autocast,
)


def combine(x: Tensor, y: Tensor, post: Tensor, res: Tensor, *, impl: Implementation = "auto") -> Tensor:
    """Write to the streams: x' = H_res x + H_post^T y (arXiv 2512.24880, eq. 3).

    By entries, x'_ic = sum_j res_ij x_jc + post_i y_c.

    Args:
        x: streams [..., n, C].
        y: the sublayer's output [..., C].
        post: weights [..., n].
        res: mixing matrices [..., n, n], [out, in].
        impl: "auto" (the fastest that runs here), "reference", "native" (C serves Sinkhorn alone, so here it is the
            reference) or "triton".

    Returns:
        [..., n, C] in the dtype of `x`; computed in fp32 (fp64 for fp64 x).

    Raises:
        ValueError: a shape or dtype out of range, by name.
        RuntimeError: `impl="triton"` without Triton, or on a CPU tensor outside its interpreter.
    """
    require_implementation("combine", impl)
    require_floating("combine", x=x, y=y, post=post, res=res)
    require(x.dim() >= 2, "combine", "x", "[..., n, C]", list(x.shape))
    *tokens, n, width = x.shape
    require_streams("combine", "x [..., n, C]", n)
    require(y.shape == (*tokens, width), "combine", "y", f"[..., C] = {[*tokens, width]}", list(y.shape))
    require(post.shape == (*tokens, n), "combine", "post", f"[..., n] = {[*tokens, n]}", list(post.shape))
    require(res.shape == (*tokens, n, n), "combine", "res", f"[..., n, n] = {[*tokens, n, n]}", list(res.shape))
    fused = takes_triton("combine", impl, x)
    with without_autocast(x.device):
        if fused:
            from kernels.combine import triton

            return triton.combine(x, y, post, res)
        return reference.combine(x, y, post, res)
