"""The operation `hyper_coefficients`: `api` validates and dispatches, `reference` is the specification in torch."""

from kernels.hyper_coefficients.api import HyperCoefficients, hyper_coefficients
from kernels.hyper_coefficients.reference import normalised_projection

__all__ = ["HyperCoefficients", "hyper_coefficients", "normalised_projection"]
