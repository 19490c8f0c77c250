"""Signal gain: how much a stack of mixing matrices can amplify what passes through it.

Forward gain is max |row sum| of H, what a constant signal over the streams can grow to in one output stream;
backward gain is max |column sum|, the same for gradients (arXiv 2512.24880, section 3.1). All functions are pure,
per token, in fp64; mean and maximum over tokens are the caller's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def forward_gain(mixing: Tensor) -> Tensor:
    """Max |row sum| of mixing [..., out, in]: [...]."""
    return mixing.double().sum(-1).abs().amax(-1)


def backward_gain(mixing: Tensor) -> Tensor:
    """Max |column sum| of mixing [..., out, in]: [...]."""
    return mixing.double().sum(-2).abs().amax(-1)


def log_row_extremes(mixing: Tensor) -> tuple[Tensor, Tensor]:
    """Largest and smallest log |row sum| of mixing [..., out, in]: growth and attenuation, each [...]."""
    logs = mixing.double().sum(-1).abs().log()
    return logs.amax(-1), logs.amin(-1)


def log_column_error(mixing: Tensor) -> Tensor:
    """Max |log |column sum|| of mixing [..., out, in]: [...]; 0 for a doubly stochastic matrix."""
    return mixing.double().sum(-2).abs().log().abs().amax(-1)


def composites(mixings: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Products over depth: the k-th is H_k ... H_0, in fp64; None while every factor so far is the identity."""
    product: Tensor | None = None
    products: list[Tensor | None] = []
    for mixing in mixings:
        if mixing is not None:
            product = mixing.double() if product is None else torch.matmul(mixing.double(), product)
        products.append(product)
    return products
