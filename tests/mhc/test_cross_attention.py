"""Cross-attention against torch's MultiheadAttention, and what it refuses."""

from functools import partial

import pytest
import torch
from helpers import assert_close, outputs_and_gradients, randomise
from torch import nn

from mhc import Context, CrossAttention, Residual, Trunk


def oracle(layer: CrossAttention) -> nn.MultiheadAttention:
    width, memory = layer.query.in_features, layer.memory_width
    other = nn.MultiheadAttention(width, layer.heads, kdim=memory, vdim=memory, batch_first=True).double()
    key, value = layer.key_value.weight.split(width)
    if memory == width:
        parts = {"in_proj_weight": torch.cat([layer.query.weight, key, value])}
    else:
        parts = {"q_proj_weight": layer.query.weight, "k_proj_weight": key, "v_proj_weight": value}
    bias = torch.cat([layer.query.bias, layer.key_value.bias])
    parts |= {"in_proj_bias": bias, "out_proj.weight": layer.output.weight, "out_proj.bias": layer.output.bias}
    other.load_state_dict(parts)
    return other


@pytest.mark.parametrize("memory_width", [None, 8, 20])
def test_equals_torchs_multi_head_attention(memory_width):
    layer = CrossAttention(
        8, heads=2, memory_width=memory_width, bias=True, output_bias=True, norm=partial(nn.LayerNorm, eps=1e-5)
    )
    layer = randomise(layer.double(), 0.3)
    other = oracle(layer)
    inputs = {
        "x": torch.randn(2, 5, 8, dtype=torch.float64),
        "memory": torch.randn(2, 7, memory_width or 8, dtype=torch.float64),
    }
    ours = outputs_and_gradients(lambda x, memory: layer(x, Context(memory=memory)), inputs)
    theirs = outputs_and_gradients(
        lambda x, memory: other(layer.norm(x), memory, memory, need_weights=False)[0], inputs
    )
    assert_close(ours, theirs, 1e-12)


def test_the_memory_travels_in_the_trunks_context():
    trunk = Trunk([CrossAttention(8, heads=2), CrossAttention(8, heads=4)], [Residual(), Residual()])
    x, memory = torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    expected = x + trunk.sublayers[0](x, Context(memory=memory))
    expected = expected + trunk.sublayers[1](expected, Context(memory=memory))
    assert torch.allclose(trunk(x, Context(memory=memory)), expected)


@pytest.mark.parametrize(
    ("context", "found"),
    [(None, "none"), (Context(), "none"), (Context(memory=torch.zeros(1, 2, 5)), "one of width 5")],
    ids=str,
)
def test_a_missing_or_wrong_memory_is_refused(context, found):
    with pytest.raises(ValueError, match=f"memory of width 8 in the context, got {found}"):
        CrossAttention(8, heads=2)(torch.zeros(1, 2, 8), context)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="width 8 and heads 3"):
        CrossAttention(8, heads=3)
