"""Sinkhorn-Knopp projection onto the doubly stochastic matrices."""

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
from kernels.sinkhorn import native, reference


def sinkhorn(
    logits: Tensor, *, steps: int = 20, last: Last = "rows", eps: float = 0.0, impl: Implementation = "auto"
) -> Tensor:
    """Normalise exp(logits) alternately along columns and rows: M_t = T_row(T_col(M_{t-1})), M_0 = exp(logits).

    The equation is mHC's (arXiv 2512.24880, eq. 8-9); the gradient is exact for the given number of steps.

    Args:
        logits: [..., n, n] with n from 1 to 8, [out, in]; finite results and gradients for |logits| up to 1e4.
        steps: how often both directions are normalised, t_max of the paper.
        last: which direction is normalised last and therefore sums to 1 exactly ("rows": sum over `in`).
        eps: 0 as in the paper; otherwise the first normalisation is a softmax to which eps is added, and every
            later one divides by (sum + eps), as DeepSeek-V4, TileKernels and Liger do.
        impl: "auto" (the fastest that runs here), "reference", "native" (C, on CPU) or "triton".

    Returns:
        [..., n, n] in the dtype of `logits`; computed in fp32 (fp64 for fp64 input).

    Raises:
        ValueError: a shape, dtype or option out of range, by name.
        RuntimeError: `impl="native"` or `impl="triton"` where it cannot run.
    """
    require_implementation("sinkhorn", impl)
    require_floating("sinkhorn", logits=logits)
    shape = tuple(logits.shape)
    require(len(shape) >= 2 and shape[-1] == shape[-2], "sinkhorn", "logits", "[..., n, n]", list(shape))
    require_streams("sinkhorn", "logits [..., n, n]", shape[-1])
    require_normalisation("sinkhorn", steps, last, eps)
    if impl == "native" and not (logits.is_meta or native.can_run(logits)):
        raise RuntimeError(
            "sinkhorn: impl='native' needs a C compiler (cc, gcc, clang or $CC) and plain fp32, fp16 or bf16 tensors "
            f"on CPU outside torch.compile, got {logits.dtype} on {logits.device}"
        )
    if takes_triton("sinkhorn", impl, logits):
        from kernels.sinkhorn import triton

        return triton.sinkhorn(logits, steps=steps, last=last, eps=eps)
    code = native if impl != "reference" and native.can_run(logits) else reference
    with without_autocast(logits.device):
        return code.sinkhorn(logits, steps=steps, last=last, eps=eps)
