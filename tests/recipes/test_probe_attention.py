"""The weights that probes compute beside the forward pass are those of the forward pass."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import randomise, relative_error
from probe_cases import CELL, COUNT, PIXELS, SIDE, column_order, fresh, planted
from torch import nn

import encoders.causal_flow
from encoders.causal_flow import BidirectionalQueryAttention, CausalFlowEncoder, PrefixAttention
from encoders.clip import CLIPEncoder
from encoders.deep_encoder import DeepEncoder
from encoders.mbart import MBARTEncoder
from encoders.patch import PatchTokenizer
from encoders.qformer import QFormerEncoder
from encoders.query_bank import QueryBank
from encoders.raster import RasterEncoder
from mhc import Attention, CrossAttention, ManifoldHyperConnection
from mhc.context import Context
from recipes.probes.attention import attention_of, look

M, Q, WIDTH = 6, 5, 16
SUBLAYERS = {
    "causal": partial(Attention, heads=4, key_value_heads=2, query_key_norm=True),
    "bidirectional": partial(Attention, heads=2, causal=False, rotary_base=None, bias=True, output_bias=True),
    "prefix": partial(PrefixAttention, heads=4, key_value_heads=2),
    "prefix and all queries": partial(BidirectionalQueryAttention, heads=4, key_value_heads=2),
    "cross": partial(CrossAttention, heads=4, memory_width=10, bias=True, output_bias=True),
}
SHAPE = {"width": 32, "heads": 2, "hidden": 24}
ENCODERS = {
    "causal flow": partial(CausalFlowEncoder, **SHAPE, depth=2, key_value_heads=1),
    "causal flow on mHC": partial(
        CausalFlowEncoder, **SHAPE, depth=1, key_value_heads=1, topology=partial(ManifoldHyperConnection, streams=2)
    ),
    "bidirectional flow": partial(CausalFlowEncoder, **SHAPE, depth=1, key_value_heads=1, causal_queries=False),
    "CLIP": partial(CLIPEncoder, **SHAPE, depth=2, grid=2),
    "mBART": partial(MBARTEncoder, **SHAPE, encoder_depth=1, decoder_depth=2, max_positions=64),
    "Q-Former": partial(QFormerEncoder, **SHAPE, depth=3),
}
# attention sublayers from queries to visual tokens, and tokens before the visual ones
LOOKING = {"causal flow": (2, 0), "causal flow on mHC": (1, 0), "bidirectional flow": (1, 0), "CLIP": (2, 1),
           "mBART": (2, 0), "Q-Former": (2, 0)}  # fmt: skip


@pytest.mark.parametrize("name", SUBLAYERS)
def test_weights_times_values_are_the_sublayers_output(name):
    sublayer = randomise(SUBLAYERS[name](WIDTH).double(), 0.3)
    x, memory = torch.randn(2, M + Q, WIDTH).double(), torch.randn(2, 7, 10).double()
    context = Context(prefix=M, memory=memory)
    found = attention_of(sublayer, x, context)
    assert relative_error(found.output(sublayer), sublayer(x, context)) < 1e-12
    assert relative_error(found.weights.sum(-1), torch.ones(2, sublayer.heads, M + Q).double()) < 1e-12
    assert found.of_memory == (name == "cross")


def test_what_is_no_attention_has_none():
    assert attention_of(nn.Linear(3, 3), torch.randn(1, 2, 3), Context()) is None


@pytest.mark.parametrize("queries", [16, 64])
@pytest.mark.parametrize("name", ENCODERS)
def test_maps_are_the_weights_of_the_forward_pass(name, queries, monkeypatch):
    vision = deep(ENCODERS[name](), queries)
    count, before = LOOKING[name]
    weights: list[torch.Tensor] = []

    def recorded(query, key, value, attn_mask=None, is_causal=False, enable_gqa=False):
        key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], 1) for each in (key, value))
        scores = query @ key.mT / query.shape[-1] ** 0.5
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        weights.append(scores.softmax(-1))
        return weights[-1] @ value

    def prefixed(query, key, value, prefix):
        mask = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).tril()
        mask[:prefix, :prefix] = True
        return recorded(query, key, value, mask)

    pixels = torch.randn(2, 3, PIXELS, PIXELS)
    found = look(vision, pixels)
    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    monkeypatch.setattr(encoders.causal_flow, "prefix_attention", prefixed)
    vision.encode(pixels)
    # by where queries and visual tokens stand in each of these encoders, not by a rule
    if name in ("mBART", "Q-Former"):
        own = 1 if name == "mBART" else 0
        across = {"mBART": slice(own + 1, None, 2), "Q-Former": [1, 4]}[name]
        expected = weights[across] if isinstance(across, slice) else [weights[k] for k in across]
    elif name == "bidirectional flow":
        expected = [each[:, :, :, :COUNT] for each in weights[1::2]]
    else:
        expected = [each[:, :, -queries:, before : before + COUNT] for each in weights]
    assert found.maps.shape == (count, 2, queries, COUNT)
    assert found.grid == (SIDE, SIDE)
    assert relative_error(found.maps, torch.stack(expected).mean(2)) < 1e-5


def test_looking_changes_nothing():
    vision = deep(ENCODERS["causal flow"](), 16)
    pixels = torch.randn(1, 3, PIXELS, PIXELS)
    expected = vision.encode(pixels)
    found = look(vision, pixels)
    assert torch.equal(vision.encode(pixels), expected)
    assert torch.equal(vision.projector(found.output), expected)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vision.modules())


def test_planted_encoders_look_where_they_were_told_to():
    order = column_order()
    maps = look(planted(False, order), torch.zeros(1, 3, PIXELS, PIXELS)).maps
    assert maps[0, 0].argmax(-1).tolist() == order


@pytest.mark.parametrize("encoder", [RasterEncoder(width=32), ENCODERS["CLIP"]()])
def test_without_queries_index_is_position(encoder):
    vision = DeepEncoder(PatchTokenizer(width=32, patch=CELL), encoder, 8)
    found = look(vision, torch.randn(2, 3, PIXELS, PIXELS))
    assert found.raster
    assert torch.equal(found.maps, torch.eye(COUNT).expand(1, 2, COUNT, COUNT))


class Doubled(Attention):
    """Attention whose `_attend` is another than its class's."""

    def _attend(self, query, key, value, context):
        return super()._attend(2 * query, key, value, context)


class Silent(nn.Module):
    """A sublayer without attention."""

    def forward(self, x, context=None):
        return x


def test_an_attention_of_ones_own_is_named_until_it_is_registered():
    vision = deep(ENCODERS["CLIP"](), 16)
    pixels = torch.randn(1, 3, PIXELS, PIXELS)
    vision.encoder.trunk.sublayers[0] = randomise(Doubled(32, heads=2, rotary_base=None, causal=False), 0.3)
    with pytest.raises(ValueError, match=r"weights of Doubled do not give its output.*register"):
        look(vision, pixels)
    for k in (0, 2):
        vision.encoder.trunk.sublayers[k] = Silent()
    with pytest.raises(ValueError, match=r"CLIPEncoder has no attention from queries.*register"):
        look(vision, pixels)


@pytest.mark.parametrize("autocast", [False, True])
def test_it_looks_in_bf16(autocast):
    vision = fresh(0)
    pixels = torch.randn(1, 3, PIXELS, PIXELS)
    expected = look(vision, pixels).maps
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            found = look(vision, pixels).maps
    else:
        found = look(vision.to(torch.bfloat16), pixels.bfloat16()).maps
    assert found.dtype == torch.float32
    assert relative_error(found, expected) < 0.02


def deep(encoder, queries: int) -> DeepEncoder:
    bank = QueryBank(width=32, counts={PIXELS: queries}, stride=CELL, std=1.0)
    return randomise(DeepEncoder(PatchTokenizer(width=32, patch=CELL), encoder, 8, bank), 0.2).eval()
