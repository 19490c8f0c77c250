"""What all vision encoders share: shapes, gradients, topologies, descriptions, devices, observers, errors."""

import json
from functools import partial

import pytest
import torch
from encoder_cases import ALL, GRID, WITH_QUERIES, WITH_TRUNK, M, all_gradients, inputs, tokens
from helpers import randomise, relative_error

from mhc import HyperConnection, ManifoldHyperConnection, Residual, Trunk, build, describe

TOPOLOGIES = {
    "residual": Residual,
    "HC": partial(HyperConnection, streams=2),
    "mHC": partial(ManifoldHyperConnection, streams=2),
}


@pytest.mark.parametrize("q", [M // 4, M, 2 * M])
@pytest.mark.parametrize("name", ALL)
def test_there_is_an_output_for_every_query_or_else_for_every_visual_token(name, q):
    encoder = randomise(ALL[name]().double(), 0.2)
    visual, queries = inputs(name, q)
    output = encoder(visual, queries, GRID)
    assert output.shape == (2, M if queries is None else q, encoder.output_width)
    # rows of the batch do not mix
    alone = encoder(visual[1:], None if queries is None else queries[1:], GRID)
    assert relative_error(output[1:], alone) < 1e-12


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("name", WITH_TRUNK)
def test_gradients_reach_every_input_and_parameter_under_every_topology(name, topology):
    encoder = randomise(WITH_TRUNK[name](topology=TOPOLOGIES[topology]).double(), 0.2)
    visual, queries = inputs(name)
    leaves = {"visual": visual.requires_grad_()} | ({} if queries is None else {"queries": queries.requires_grad_()})
    found = all_gradients(encoder, encoder(visual, queries, GRID), leaves)
    assert found.keys() == {"output"} | leaves.keys() | dict(encoder.named_parameters()).keys()
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in found.values())
    # no token is left out
    assert all((found[leaf].abs().amax(-1) > 0).all() for leaf in leaves)


@pytest.mark.parametrize("name", WITH_TRUNK)
def test_mhc_starts_as_the_plain_residual(name):
    plain = randomise(WITH_TRUNK[name]().double(), 0.2)
    mhc = WITH_TRUNK[name](topology=partial(ManifoldHyperConnection, streams=4, init="residual")).double()
    missing, unexpected = mhc.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert missing
    assert all(".topologies." in key for key in missing)
    # the biases of mHC are fp32 numbers
    assert relative_error(mhc(*inputs(name), GRID), plain(*inputs(name), GRID)) < 1e-6


@pytest.mark.parametrize("topology", [None, *TOPOLOGIES])
@pytest.mark.parametrize("name", ALL)
def test_it_is_built_again_from_its_description(name, topology):
    arguments = {"topology": TOPOLOGIES[topology]} if topology and name in WITH_TRUNK else {}
    torch.manual_seed(1)
    encoder = ALL[name](**arguments)
    node = json.loads(json.dumps(describe(encoder)))
    torch.manual_seed(1)
    again = build(node)
    assert type(again) is type(encoder)
    assert describe(again) == node
    weights, weights_again = encoder.state_dict(), again.state_dict()
    assert list(weights) == list(weights_again)
    assert all(torch.equal(weights[key], weights_again[key]) for key in weights)
    visual, queries = inputs(name, dtype=torch.float32)
    assert torch.equal(encoder(visual, queries, GRID), again(visual, queries, GRID))


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("name", ALL)
def test_it_runs_in_bf16(name, topology):
    encoder = ALL[name](**({"topology": TOPOLOGIES[topology]} if name in WITH_TRUNK else {}))
    visual, queries = inputs(name, dtype=torch.bfloat16)
    expected = encoder(visual.float(), None if queries is None else queries.float(), GRID)
    output = encoder.to(torch.bfloat16)(visual, queries, GRID)
    assert output.dtype == torch.bfloat16
    # bf16 keeps 2^-9 of a value, and an output is some ten sums
    assert relative_error(output, expected) < 0.03


@pytest.mark.parametrize("name", ALL)
def test_it_runs_on_the_meta_device(name):
    with torch.device("meta"):
        encoder = ALL[name](**({"topology": TOPOLOGIES["mHC"]} if name in WITH_TRUNK else {}))
    visual, queries = (None if x is None else x.float().to("meta") for x in inputs(name, 5))
    output = encoder(visual, queries, GRID)
    assert output.device.type == "meta"
    assert output.shape == (2, M if queries is None else 5, encoder.output_width)


@pytest.mark.parametrize("name", ALL)
def test_an_observer_sees_every_sublayer_once_in_order(name):
    encoder, seen = ALL[name]().double(), []
    encoder(*inputs(name), GRID, observe=lambda index, topology, state, carry: seen.append((index, topology)))
    topologies = [topology for part in encoder.modules() if isinstance(part, Trunk) for topology in part.topologies]
    assert [index for index, _ in seen] == list(range(len(topologies)))
    assert all(found is topology for (_, found), topology in zip(seen, topologies, strict=True))
    assert bool(topologies) == (name in WITH_TRUNK)


@pytest.mark.parametrize("name", WITH_TRUNK)
def test_what_writes_to_the_residual_starts_smaller(name):
    encoder = WITH_TRUNK[name](width=64, hidden=256)
    for part, module in encoder.named_modules():
        if isinstance(module, torch.nn.Linear):
            writes = part.rpartition(".")[2] in ("output", "down")
            assert 0.003 < module.weight.std() < 0.0185 if writes else 0.0185 < module.weight.std() < 0.0215
            assert module.bias is None or module.bias.abs().sum() == 0


@pytest.mark.parametrize("name", ALL)
def test_visual_tokens_of_another_width_are_named(name):
    _, queries = inputs(name)
    with pytest.raises(ValueError, match=r"16.*\[2, 12, 10\].*width"):
        ALL[name]().double()(tokens(M, 10), queries, GRID)


@pytest.mark.parametrize("name", [name for name in ALL if name != "causal flow"])
def test_visual_tokens_of_another_grid_are_named(name):
    _, queries = inputs(name)
    with pytest.raises(ValueError, match=r"4 x 4.*\[2, 12, 16\].*grid"):
        ALL[name]().double()(tokens(M), queries, (4, 4))


@pytest.mark.parametrize("name", WITH_QUERIES)
def test_queries_of_another_width_or_batch_are_named(name):
    encoder = WITH_QUERIES[name]().double()
    for queries in (tokens(M, 10), tokens(M, batch=1)):
        with pytest.raises(ValueError, match=r"quer.*width"):
            encoder(tokens(M), queries, GRID)


@pytest.mark.parametrize("name", [name for name in WITH_QUERIES if name != "CLIP"])
def test_missing_queries_are_named(name):
    with pytest.raises(ValueError, match=r"needs queries|set queries"):
        WITH_QUERIES[name]().double()(tokens(M), None, GRID)
