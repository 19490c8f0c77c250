"""Decoding with a key-value cache gives what whole forward passes give."""

from functools import partial

import pytest
import torch
from helpers import randomise, relative_error
from models import TOPOLOGIES, VOCABULARY, language_model, tokens

from mhc import Attention, CausalLanguageModel, Context, FeedForward, KeyValueCache, Residual, Trunk

LENGTH = 11


@pytest.fixture(params=TOPOLOGIES)
def model(request):
    return randomise(language_model(TOPOLOGIES[request.param]), 0.1).double()


@pytest.mark.parametrize("lengths", [[11], [1] * 11, [10, 1], [1, 10], [5, 3, 2, 1], [4, 4, 3], [3, *[1] * 8]], ids=str)
@torch.no_grad()
def test_any_split_of_a_sequence_gives_the_same_logits(model, lengths):
    inputs = tokens(2, LENGTH)
    cache, parts = KeyValueCache(), []
    for part in inputs.split(lengths, 1):
        parts.append(model(part, Context(cache=cache)))
    assert {cache.length(index) for index in range(len(model.trunk.sublayers)) if index % 2 == 0} == {LENGTH}
    assert relative_error(torch.cat(parts, 1), model(inputs)) < 1e-12


@torch.no_grad()
def test_positions_are_those_of_the_whole_sequence(model):
    first, second = tokens(1, 8).split(4, 1)
    results = []
    for positions in (None, torch.arange(4, 8), torch.arange(4)):
        cache = KeyValueCache()
        model(first, Context(cache=cache))
        results.append(model(second, Context(cache=cache, positions=positions)))
    counted, given, from_zero = results
    assert relative_error(given, counted) < 1e-12
    assert relative_error(from_zero, counted) > 1e-3


@torch.no_grad()
def test_a_sublayer_that_is_used_twice_has_a_cache_for_each_place():
    attention = randomise(Attention(16, heads=2)).double()
    trunk = Trunk([attention, attention], [Residual(), Residual()])
    x, cache = torch.randn(1, 6, 16, dtype=torch.float64), KeyValueCache()
    parts = [trunk(part, Context(cache=cache)) for part in x.split(2, 1)]
    assert relative_error(torch.cat(parts, 1), trunk(x)) < 1e-12


@torch.no_grad()
def test_a_context_may_be_used_again_as_its_cache_grows(model):
    context = Context(cache=KeyValueCache())
    parts = []
    for part in tokens(1, 8).split(4, 1):
        parts.append(model(part, context))
    assert relative_error(torch.cat(parts, 1), model(tokens(1, 8))) < 1e-12


def test_greedy_generation_takes_the_argmax_of_whole_forward_passes(model):
    prompt = tokens(3, 4)
    result = model.generate(prompt, 9, temperature=0)
    expected = prompt
    with torch.no_grad():
        for _ in range(9):
            expected = torch.cat([expected, model(expected)[:, -1:].argmax(-1)], 1)
    assert torch.equal(result, expected)
    assert torch.equal(model.generate(prompt, 9, top_k=1), expected)


def test_generation_starts_with_its_prompt_and_is_the_generators(model):
    prompt = tokens(2, 3)
    assert torch.equal(model.generate(prompt, 0), prompt)
    first, again, other = (
        model.generate(prompt, 20, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == (2, 23)
    assert first.min() >= 0
    assert first.max() < VOCABULARY
    assert torch.equal(first[:, :3], prompt)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_sampling_follows_the_temperature_and_top_k():
    model = language_model(TOPOLOGIES["mhc"])
    prompt = tokens(1, 3).expand(4000, 3)
    with torch.no_grad():
        logits = model(prompt[:1])[0, -1]
    for temperature, top_k in ((1.0, None), (0.5, None), (1.0, 5)):
        generator = torch.Generator().manual_seed(0)
        drawn = model.generate(prompt, 1, temperature=temperature, top_k=top_k, generator=generator)[:, -1]
        frequency = torch.bincount(drawn, minlength=VOCABULARY) / len(drawn)
        kept = logits if top_k is None else logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
        expected = (kept / temperature).softmax(-1)
        assert not frequency[expected == 0].any()
        # four standard errors of a frequency at 4000 draws
        assert ((frequency - expected).abs() < 4 * (expected * (1 - expected) / 4000).sqrt() + 1e-4).all()


def test_a_tied_model_without_grouping_or_rotation_decodes_too():
    torch.manual_seed(0)
    model = CausalLanguageModel(
        VOCABULARY,
        12,
        2,
        topology=TOPOLOGIES["mhc"],
        attention=partial(Attention, heads=3, rotary_base=None),
        feed_forward=partial(FeedForward, hidden=24),
    )
    randomise(model.double(), 0.3)
    result = model.generate(tokens(2, 5), 6, temperature=0)
    with torch.no_grad():
        assert torch.equal(model(result[:, :-1])[:, 4:].argmax(-1), result[:, 5:])


@pytest.mark.parametrize(
    "arguments",
    [{"temperature": -1.0}, {"max_new_tokens": -1}, {"top_k": 0}, {"tokens": torch.zeros(1, 0, dtype=torch.int64)}],
    ids=str,
)
def test_generation_refuses_what_makes_no_sense(arguments):
    model = language_model(TOPOLOGIES["residual"])
    with pytest.raises(ValueError, match=next(iter(arguments))):
        model.generate(**({"tokens": tokens(1, 2), "max_new_tokens": 1} | arguments))
