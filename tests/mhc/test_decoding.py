"""Decoding with a key-value cache gives what whole forward passes give."""

from functools import partial

import pytest
import torch
from helpers import assert_close, gradients, randomise, relative_error
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


def test_gradients_flow_through_the_cache(model):
    inputs = tokens(2, 6)
    weights = dict(model.trunk.sublayers[0].named_parameters()) | {"head": model.head.weight}
    cache = KeyValueCache()
    parts = torch.cat([model(part, Context(cache=cache)) for part in inputs.split([3, 1, 2], 1)], 1)
    found, wanted = (gradients(logits, list(weights.values())) for logits in (parts, model(inputs)))
    assert_close(dict(zip(weights, found, strict=True)), dict(zip(weights, wanted, strict=True)), 1e-12)


def test_a_cache_goes_through_every_mode(model):
    inputs = tokens(2, 10)
    # after three steps of inference there is room for a fourth, in a tensor that no other mode may write to
    modes = [torch.inference_mode] * 3 + [torch.no_grad, torch.enable_grad, torch.no_grad, torch.inference_mode]
    modes += [torch.no_grad, torch.enable_grad, torch.enable_grad]
    cache, parts = KeyValueCache(), []
    for part, mode in zip(inputs.split(1, 1), modes, strict=True):
        with mode():
            parts.append(model(part, Context(cache=cache)))
    learned = [part for part in parts if part.requires_grad]
    assert len(learned) == 3
    torch.cat(learned, 1).sum().backward()
    assert relative_error(torch.cat([part.detach() for part in parts], 1), model(inputs)) < 1e-12


def entries(length: int, heads: int = 2, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(2, heads, length, 4, dtype=dtype)


@torch.no_grad()
def test_storage_doubles_and_what_was_written_stays():
    cache, keys, values, places = KeyValueCache(), [], [], set()
    for length in [3, *[1] * 60, 7, 300]:
        keys.append(entries(length))
        values.append(entries(length))
        key, value = cache.update(5, keys[-1], values[-1])
        places.add(key.data_ptr())
        assert torch.equal(key, torch.cat(keys, 2))
        assert torch.equal(value, torch.cat(values, 2))
    assert (cache.length(5), cache.length(0)) == (370, 0)
    # 3, 6, 12, 24, 48, 96, then 370 at once
    assert len(places) == 7


@torch.no_grad()
def test_the_first_keys_are_not_written_to():
    cache, whole = KeyValueCache(), entries(8)
    before = whole.clone()
    cache.update(0, whole[:, :, :3], whole[:, :, :3])
    cache.update(0, entries(2), entries(2))
    assert torch.equal(whole, before)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("other", [entries(1)[:1], entries(1, heads=1), entries(1).float(), entries(1)[..., :2]])
def test_a_cache_refuses_tokens_of_another_model_or_batch(other, gradient):
    cache = KeyValueCache()
    with torch.set_grad_enabled(gradient):
        cache.update(3, entries(2), entries(2))
        with pytest.raises(
            ValueError, match=r"the cache of sublayer 3 holds \[2, 2, tokens, 4\] in torch.float64, got"
        ):
            cache.update(3, other, other)


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
