"""The language model around the trunk: its start, its head, its sizes, and that it learns."""

import math
from functools import partial

import pytest
import torch
from models import TOPOLOGIES, VOCABULARY, language_model, tokens, train

from mhc import Attention, CausalLanguageModel, FeedForward, Residual, SwiGLU


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
