"""The three operations one after the other: what the joined kernels compute."""

from torch import Tensor

from kernels.aggregate.reference import aggregate
from kernels.combine.reference import combine
from kernels.dispatch import Implementation, Last
from kernels.hyper_coefficients.reference import hyper_coefficients


def combine_aggregate(
    x: Tensor,
    y: Tensor,
    post: Tensor,
    res: Tensor,
    phi: Tensor,
    alpha: Tensor,
    bias: Tensor,
    *,
    steps: int,
    last: Last,
    eps: float,
    norm_eps: float,
    impl: Implementation,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `kernels.combine_aggregate`; `impl` is that of the Sinkhorn inside."""
    x_next = combine(x, y, post, res)
    pre, post, res = hyper_coefficients(
        x_next, phi, alpha, bias, steps=steps, last=last, eps=eps, norm_eps=norm_eps, impl=impl
    )
    return x_next, aggregate(x_next, pre), pre, post, res
