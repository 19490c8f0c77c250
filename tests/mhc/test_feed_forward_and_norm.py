"""Feed-forward sublayers and the norm as formulas."""

import math

import pytest
import torch
from helpers import FP64, randomise, relative_error
from torch import nn

from mhc import FeedForward, RMSNorm, SwiGLU

C, HIDDEN = 6, 10


def draw() -> torch.Tensor:
    return 2 * torch.randn(2, 3, C, dtype=torch.float64)


def rms_norm(x: torch.Tensor, norm: RMSNorm) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight


@pytest.mark.parametrize("eps", [1e-6, 0.1])
def test_rms_norm(eps):
    norm = randomise(RMSNorm(C, eps).double())
    x = draw()
    assert relative_error(norm(x), rms_norm(x, norm)) < FP64
    assert not norm(torch.zeros(1, C, dtype=torch.float64)).any()


def test_feed_forward_is_gelu_between_two_matrices():
    layer = randomise(FeedForward(C, hidden=HIDDEN).double())
    x = draw()
    up = rms_norm(x, layer.norm) @ layer.up.weight.mT
    expected = (up * 0.5 * (1 + torch.erf(up / math.sqrt(2)))) @ layer.down.weight.mT
    assert relative_error(layer(x), expected) < FP64


def test_swiglu_is_a_gated_silu():
    layer = randomise(SwiGLU(C, hidden=HIDDEN).double())
    x = draw()
    normed = rms_norm(x, layer.norm)
    gate = normed @ layer.gate.weight.mT
    expected = (gate / (1 + (-gate).exp()) * (normed @ layer.up.weight.mT)) @ layer.down.weight.mT
    assert relative_error(layer(x), expected) < FP64


@pytest.mark.parametrize("kind", [FeedForward, SwiGLU])
def test_norm_is_a_factory_and_a_hidden_layer_has_units(kind):
    assert isinstance(kind(C, hidden=3, norm=nn.LayerNorm).norm, nn.LayerNorm)
    for hidden in (0, -4):
        with pytest.raises(ValueError, match="hidden"):
            kind(C, hidden=hidden)
