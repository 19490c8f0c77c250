"""The operation `grouped_product`: `api` validates and dispatches, `reference` is the specification in plain torch."""

from kernels.grouped_product.api import grouped_product

__all__ = ["grouped_product"]
