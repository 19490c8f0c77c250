"""The operation `aggregate`: `api` validates and dispatches, `reference` is the specification in plain torch."""

from kernels.aggregate.api import aggregate

__all__ = ["aggregate"]
