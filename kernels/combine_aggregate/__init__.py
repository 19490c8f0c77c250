"""The operation `combine_aggregate`: `api` validates and dispatches, `reference` is the specification in torch."""

from kernels.combine_aggregate.api import combine_aggregate

__all__ = ["combine_aggregate"]
