"""The language model around the trunk: its start, its head, its sizes, and that it learns."""

import math
from functools import partial

import pytest
import torch
from models import TOPOLOGIES, VOCABULARY, language_model, tokens, train
from torch import nn

from mhc import Attention, CausalLanguageModel, FeedForward, Residual, SwiGLU, describe
from mhc import build as build_node
from mhc.initialisation import initialise


def build(**changes) -> CausalLanguageModel:
    arguments = {
        "vocabulary_size": 300,
        "width": 64,
        "depth": 8,
        "topology": Residual,
        "attention": partial(Attention, heads=4),
        "feed_forward": partial(SwiGLU, hidden=96),
    }
    return CausalLanguageModel(**(arguments | changes))


@pytest.mark.parametrize("feed_forward", [SwiGLU, FeedForward])
def test_weights_start_as_the_table_says(feed_forward):
    torch.manual_seed(0)
    model = build(feed_forward=partial(feed_forward, hidden=96), tied=False)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
            continue
        writes = name.endswith(("output.weight", "down.weight"))
        wanted = 0.02 / math.sqrt(2 * 8) if writes else 0.02
        # thousands of draws know their spread to a few percent
        assert parameter.std().item() == pytest.approx(wanted, rel=0.05), name
        assert abs(parameter.mean().item()) < 0.1 * wanted, name


def test_sublayers_start_as_the_table_says():
    torch.manual_seed(0)
    calls = []

    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = nn.Linear(64, 64)

        def initialise(self, std, output_std):
            calls.append((std, output_std))
            nn.init.constant_(self.down.weight, 7.0)

    inner = nn.ModuleDict({"output": nn.Linear(64, 64), "other": nn.Linear(64, 64), "experts": Experts()})
    norm = nn.LayerNorm(64)
    nn.init.constant_(norm.bias, 3.0)
    initialise([inner, norm, nn.Linear(64, 64)], 2, std=0.5)
    assert inner["output"].weight.std().item() == pytest.approx(0.5 / 2, rel=0.05)
    assert inner["other"].weight.std().item() == pytest.approx(0.5, rel=0.05)
    assert not inner["output"].bias.any()
    assert not inner["other"].bias.any()
    # a module's own start comes last, and norms stay
    assert calls == [(0.5, 0.25)]
    assert (inner["experts"].down.weight == 7).all()
    assert (norm.bias == 3).all()
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        initialise([norm], 0)


def test_a_tied_head_is_the_embedding():
    tied, untied = build(), build(tied=False)
    assert untied.head.weight.shape == tied.embedding.weight.shape == (300, 64)
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (tied, untied)]
    assert sizes[1] - sizes[0] == 300 * 64
    inputs = torch.randint(300, (2, 5))
    expected = tied.norm(tied.trunk(tied.embedding(inputs))) @ tied.embedding.weight.mT
    torch.testing.assert_close(tied(inputs), expected)


def test_a_trunk_is_flat():
    model = build()
    kinds = [type(sublayer) for sublayer in model.trunk.sublayers]
    assert kinds == [Attention, SwiGLU] * 8
    assert len(model.trunk.topologies) == 16
    indices = []
    build(topology=lambda width, index: indices.append((width, index)) or Residual())
    assert indices == [(64, index) for index in range(16)]


@pytest.mark.parametrize("dense", [0, 1, 3, 8])
def test_the_first_blocks_have_feed_forwards_of_their_own(dense):
    model = build(dense_feed_forward=partial(FeedForward, hidden=7), dense_blocks=dense)
    kinds = [type(sublayer) for sublayer in model.trunk.sublayers]
    assert kinds[0::2] == [Attention] * 8
    assert kinds[1::2] == [FeedForward] * dense + [SwiGLU] * (8 - dense)
    again = build_node(describe(model))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(tokens()), model(tokens()))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"dense_blocks": 1}, "dense_blocks is 1, which needs a dense_feed_forward"),
        ({"dense_blocks": 9}, "dense_blocks must be from 0 to the depth of 8, got 9"),
        ({"dense_blocks": -1}, "dense_blocks must be from 0"),
    ],
)
def test_dense_blocks_that_cannot_be_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        build(**arguments)


def test_it_reads_embeddings_in_place_of_tokens():
    model = build()
    inputs = torch.randint(300, (2, 5))
    assert torch.equal(model(embeddings=model.embedding(inputs)), model(inputs))
    embeddings = torch.randn(2, 5, 64, requires_grad=True)
    model(embeddings=embeddings).square().sum().backward()
    assert (embeddings.grad.abs().amax(-1) > 0).all()
    for arguments, got in (({}, "neither"), ({"tokens": inputs, "embeddings": embeddings}, "both")):
        with pytest.raises(ValueError, match=f"either tokens or embeddings, got {got}"):
            model(**arguments)


@pytest.mark.parametrize("kind", TOPOLOGIES)
def test_it_learns_to_count(kind):
    model = language_model(TOPOLOGIES[kind])
    assert model(tokens()).shape == (2, 11, VOCABULARY)
    before = train(model, 1)
    assert train(model, 60) < 0.5 * before


@pytest.mark.parametrize("kind", TOPOLOGIES)
def test_a_seed_decides_everything(kind):
    losses = [train(language_model(TOPOLOGIES[kind], seed=seed), 5) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("name", ["vocabulary_size", "width", "depth"])
def test_a_size_below_one_is_named(name):
    for size in (0, -1):
        with pytest.raises(ValueError, match=name):
            build(**{name: size})
