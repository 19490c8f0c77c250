"""The operation `prefix_attention`: visual tokens see each other, queries what came before, without a dense mask."""

from kernels.prefix_attention.api import prefix_attention

__all__ = ["prefix_attention"]
