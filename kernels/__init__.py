"""Operations of multi-stream residuals as functions: a readable reference and, on GPU, a fused version of each."""

from kernels.aggregate import aggregate
from kernels.combine import combine
from kernels.combine_aggregate import combine_aggregate
from kernels.grouped_product import grouped_product
from kernels.hyper_coefficients import hyper_coefficients
from kernels.prefix_attention import prefix_attention
from kernels.sinkhorn import sinkhorn

__all__ = [
    "aggregate",
    "combine",
    "combine_aggregate",
    "grouped_product",
    "hyper_coefficients",
    "prefix_attention",
    "sinkhorn",
]
