"""What a sublayer reads: a weighted sum over streams."""

from torch import Tensor

from kernels.aggregate import reference
from kernels.dispatch import (
    Implementation,
    require,
    require_floating,
    require_implementation,
    require_streams,
    takes_triton,
    without_autocast,
)


def aggregate(x: Tensor, pre: Tensor, *, impl: Implementation = "auto") -> Tensor:
    """Read the streams: z = H_pre x, z_c = sum_j pre_j x_jc (arXiv 2512.24880, eq. 3).

    Args:
        x: streams [..., n, C].
        pre: weights [..., n].
        impl: "auto" (the fastest that runs here), "reference", "native" (C serves Sinkhorn alone, so here it is the
            reference) or "triton".

    Returns:
        [..., C] in the dtype of `x`; computed in fp32 (fp64 for fp64 x).

    Raises:
        ValueError: a shape or dtype out of range, by name.
        RuntimeError: `impl="triton"` without Triton, or on a CPU tensor outside its interpreter.
    """
    require_implementation("aggregate", impl)
    require_floating("aggregate", x=x, pre=pre)
    require(x.dim() >= 2, "aggregate", "x", "[..., n, C]", list(x.shape))
    require_streams("aggregate", "x [..., n, C]", x.shape[-2])
    require(pre.shape == x.shape[:-1], "aggregate", "pre", f"[..., n] = {list(x.shape[:-1])}", list(pre.shape))
    fused = takes_triton("aggregate", impl, x)
    with without_autocast(x.device):
        if fused:
            from kernels.aggregate import triton

            return triton.aggregate(x, pre)
        return reference.aggregate(x, pre)
