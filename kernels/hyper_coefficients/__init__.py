"""The operation `hyper_coefficients`: `api` validates and dispatches, `reference` is the specification in torch."""

from kernels.hyper_coefficients.api import HyperCoefficients, hyper_coefficients

__all__ = ["HyperCoefficients", "hyper_coefficients"]
