"""The causal-flow encoder against transformers, its topologies, sizes and errors."""

from functools import partial

import pytest
import torch
from causal_flow_cases import (
    BASE,
    DEPTH,
    GROUPS,
    HEADS,
    HIDDEN,
    SIZES,
    WIDTH,
    causal_flow_mask,
    encoder_of,
    inputs_of,
    run,
    under_mask,
)
from helpers import FP32, assert_close, gradients, random_like, randomise, relative_error

from encoders.causal_flow import BidirectionalQueryAttention, CausalFlowEncoder, PrefixAttention
from mhc import Attention, Context, HyperConnection, KeyValueCache, ManifoldHyperConnection, build, describe

TOPOLOGIES = {"hc": HyperConnection, "mhc": ManifoldHyperConnection}


def oracle_of() -> torch.nn.Module:
    configuration = pytest.importorskip("transformers.models.deepseek_ocr2.configuration_deepseek_ocr2")
    modeling = pytest.importorskip("transformers.models.deepseek_ocr2.modeling_deepseek_ocr2")
    config = configuration.DeepseekOcr2VisionEncoderConfig(
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        rope_parameters={"rope_type": "default", "rope_theta": BASE},
    )
    config._attn_implementation = "eager"  # matrix products and a mask
    return randomise(modeling.DeepseekOcr2VisionEncoder(config), 0.2)


def in_our_names(named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Transformers' tensors, weights or gradients, under the encoder's names; queries, keys and values in one."""
    ours = {"norm.weight": named["norm.weight"]}
    for block in range(DEPTH):
        theirs, first, second = f"layers.{block}", f"trunk.sublayers.{2 * block}", f"trunk.sublayers.{2 * block + 1}"
        for kind in ("weight", "bias"):
            parts = [named[f"{theirs}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            ours[f"{first}.query_key_value.{kind}"] = torch.cat(parts)
        ours[f"{first}.output.weight"] = named[f"{theirs}.self_attn.o_proj.weight"]
        ours[f"{first}.norm.weight"] = named[f"{theirs}.input_layernorm.weight"]
        ours[f"{second}.norm.weight"] = named[f"{theirs}.post_attention_layernorm.weight"]
        ours |= {
            f"{second}.{part}.weight": named[f"{theirs}.mlp.{part}_proj.weight"] for part in ("gate", "up", "down")
        }
    return ours


@pytest.mark.parametrize("sizes", SIZES)
def test_outputs_and_all_gradients_equal_transformers(sizes):
    oracle, ours = oracle_of(), encoder_of(dtype=torch.float32)
    ours.load_state_dict(in_our_names(dict(oracle.named_parameters())))
    inputs = [tensor.requires_grad_() for tensor in inputs_of(sizes, torch.float32)]
    expected = oracle(inputs_embeds=torch.cat(inputs, 1), num_patches=sizes[0]).last_hidden_state[:, sizes[0] :]
    actual = run(ours, *inputs)
    theirs, mine = dict(oracle.named_parameters()), dict(ours.named_parameters())
    wanted = gradients(expected, [*inputs, *theirs.values()])
    found = gradients(actual, [*inputs, *mine.values()])
    assert_close(
        {"out": actual, "visual": found[0], "queries": found[1]} | dict(zip(mine, found[2:], strict=True)),
        {"out": expected, "visual": wanted[0], "queries": wanted[1]}
        | in_our_names(dict(zip(theirs, wanted[2:], strict=True))),
        FP32,
    )


def test_gradients_are_those_of_the_dense_definition():
    encoder, inputs = encoder_of(), [tensor.requires_grad_() for tensor in inputs_of((72, 60))]
    leaves = {"visual": inputs[0], "queries": inputs[1]} | dict(encoder.named_parameters())
    actual, expected = (
        dict(zip(leaves, gradients(output, list(leaves.values())), strict=True))
        for output in (run(encoder, *inputs), under_mask(encoder, *inputs, causal_flow_mask(72, 60)))
    )
    # the angles are fp32 in ours
    assert_close(actual, expected, 1e-5)


def test_the_released_encoder_has_357_898_112_parameters():
    with torch.device("meta"):
        encoder = CausalFlowEncoder()
        assert sum(parameter.numel() for parameter in encoder.parameters()) == 357_898_112
        output = encoder(torch.empty(1, 144, 896), torch.empty(1, 144, 896), (12, 12))
    assert output.shape == (1, 144, 896)
    assert isinstance(encoder.trunk.sublayers[0], Attention)
    assert encoder.trunk.sublayers[0].query_key_value.bias is not None
    assert encoder.trunk.sublayers[0].output.bias is None


def test_the_start_of_the_weights():
    encoder = CausalFlowEncoder(width=128, depth=8, heads=4, key_value_heads=2, hidden=256)
    attention, feed_forward = encoder.trunk.sublayers[:2]
    for weight, std in (
        (attention.query_key_value.weight, 0.02),
        (feed_forward.gate.weight, 0.02),
        (attention.output.weight, 0.005),
        (feed_forward.down.weight, 0.005),
    ):
        assert abs(float(weight.detach().std()) / std - 1) < 0.05
    assert not attention.query_key_value.bias.any()


@pytest.mark.parametrize("causal_queries", [True, False])
def test_mhc_starts_as_the_plain_residual(causal_queries):
    plain = encoder_of(dtype=torch.float32, causal_queries=causal_queries)
    other = encoder_of(dtype=torch.float32, causal_queries=causal_queries, topology=ManifoldHyperConnection)
    keys = other.load_state_dict(plain.state_dict(), strict=False)
    assert keys.missing_keys
    assert all(key.startswith("trunk.topologies.") for key in keys.missing_keys)
    inputs = inputs_of((9, 7), torch.float32)
    assert relative_error(run(other, *inputs), run(plain, *inputs)) < 5e-6


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_it_trains_on_streams(name):
    encoder = encoder_of(dtype=torch.float32, topology=partial(TOPOLOGIES[name], streams=2))
    visual, queries = inputs_of((9, 7), torch.float32)
    target = random_like(queries)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = (run(encoder, visual, queries) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    moved = [p.grad for name, p in encoder.named_parameters() if name.startswith("trunk.topologies.")]
    assert moved
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in moved)


@pytest.mark.parametrize("every", [1, "auto"])
def test_recomputed_streams_have_the_same_gradients(every):
    inputs = inputs_of((9, 7))
    found = []
    for recompute in (None, every):
        encoder = encoder_of(topology=ManifoldHyperConnection, recompute=recompute)
        names = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
        found.append(dict(zip(names, gradients(run(encoder, *inputs), list(names.values())), strict=True)))
    assert_close(found[1], found[0], 1e-12)


def test_observers_see_every_sublayer():
    seen = []
    visual, queries = inputs_of((4, 3))
    encoder_of()(visual, queries, (2, 2), lambda index, topology, state, carry: seen.append((index, state.shape)))
    assert seen == [(index, (2, 7, WIDTH)) for index in range(2 * DEPTH)]


@pytest.mark.parametrize("causal_queries", [True, False])
def test_it_is_written_down_and_built_again(causal_queries):
    topology = partial(ManifoldHyperConnection, streams=2)
    encoder = encoder_of(dtype=torch.float32, causal_queries=causal_queries, topology=topology)
    again = build(describe(encoder))
    again.load_state_dict(encoder.state_dict())
    inputs = inputs_of((5, 3), torch.float32)
    assert torch.equal(run(again, *inputs), run(encoder, *inputs))


@pytest.mark.parametrize("kind", [PrefixAttention, BidirectionalQueryAttention])
def test_an_attention_is_written_down_and_built_again(kind):
    assert type(build(describe(kind(WIDTH, heads=HEADS, key_value_heads=1)))) is kind


@pytest.mark.parametrize(
    ("visual", "queries", "named"),
    [
        ((2, 4, WIDTH), None, f"needs queries.*query bank of width {WIDTH}"),
        ((2, 4, WIDTH), (2, 4, 8), r"reads queries \[2, q, 32\], got \[2, 4, 8\]"),
        ((2, 4, 8), (2, 4, WIDTH), r"reads visual tokens \[B, 2 x 2, 32\], got \[2, 4, 8\]"),
        ((2, 4, WIDTH), (1, 4, WIDTH), r"got \[1, 4, 32\]"),
        ((2, 5, WIDTH), (2, 4, WIDTH), "grid to the rows and columns"),
        ((4, WIDTH), (2, 4, WIDTH), "visual tokens"),
    ],
)
def test_what_does_not_fit_is_named(visual, queries, named):
    encoder = encoder_of()
    with pytest.raises(ValueError, match=named):
        encoder(torch.zeros(visual), None if queries is None else torch.zeros(queries), (2, 2))


@pytest.mark.parametrize(
    "context", [Context(mask=torch.ones(1, 4, dtype=torch.bool), prefix=2), Context(cache=KeyValueCache(), prefix=2)]
)
def test_a_context_that_would_not_be_read_is_refused(context):
    with pytest.raises(ValueError, match="without mask, documents and cache"):
        PrefixAttention(WIDTH, heads=HEADS)(torch.zeros(1, 4, WIDTH), context)
