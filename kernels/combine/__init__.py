"""The operation `combine`: `api` validates and dispatches, `reference` is the specification in plain torch."""

from kernels.combine.api import combine

__all__ = ["combine"]
