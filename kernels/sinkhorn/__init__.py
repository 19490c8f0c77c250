"""The operation `sinkhorn`: `api` validates and dispatches, `reference` is the specification in plain torch."""

from kernels.sinkhorn.api import sinkhorn

__all__ = ["sinkhorn"]
