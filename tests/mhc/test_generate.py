"""Batches of prompts: left padding, embeddings, end tokens, processors; a row gets what it gets alone."""

import math

import pytest
import torch
from helpers import randomise, relative_error
from models import TOPOLOGIES, VOCABULARY, language_model, tokens
from torch import Tensor

from mhc import Context
from mhc.decoding import NoRepeatNGram

LENGTHS = (2, 7, 5, 1)


@pytest.fixture(params=TOPOLOGIES)
def model(request):
    return randomise(language_model(TOPOLOGIES[request.param]), 0.2).double()


@pytest.fixture
def plain():
    return randomise(language_model(TOPOLOGIES["residual"]), 0.2).double()


def prompts(filler: int = 0) -> tuple[list[Tensor], Tensor, Tensor]:
    """Rows of unequal lengths; the same padded on the left; the mask."""
    rows = [tokens(1, length, seed=length)[0] for length in LENGTHS]
    padded = torch.full((len(rows), max(LENGTHS)), filler)
    mask = torch.zeros_like(padded, dtype=torch.bool)
    for row, one, real in zip(rows, padded, mask, strict=True):
        one[-len(row) :], real[-len(row) :] = row, True
    return rows, padded, mask


def alone(model, row: Tensor, count: int, **options) -> Tensor:
    return model.generate(row[None], count, temperature=0, **options)[0, len(row) :]


@pytest.mark.parametrize("filler", [0, 7])
def test_each_row_of_a_padded_batch_gets_what_it_gets_alone(model, filler):
    rows, padded, mask = prompts(filler)
    result = model.generate(padded, 12, mask=mask, temperature=0)
    assert torch.equal(result[:, : padded.shape[1]], padded)
    for row, found in zip(rows, result[:, padded.shape[1] :], strict=True):
        assert torch.equal(found, alone(model, row, 12))
    # and the mask is what did it
    assert not torch.equal(model.generate(padded, 12, temperature=0), result)


def test_each_row_gets_what_it_gets_alone_under_processors_and_end_tokens(model):
    rows, padded, mask = prompts(filler=3)
    options = {"processors": [NoRepeatNGram(1, 6, allowed=(4,))], "end_token": 9}
    singles = [alone(model, row, 20, **options) for row in rows]
    result = model.generate(padded, 20, mask=mask, temperature=0, padding_token=2, **options)[:, padded.shape[1] :]
    assert result.shape[1] == max(map(len, singles))
    for found, single in zip(result, singles, strict=True):
        assert torch.equal(found[: len(single)], single)
        assert (found[len(single) :] == 2).all()


class Recorder:
    """Notes the positions and masks that a model is run with."""

    def __init__(self, model) -> None:
        self.contexts: list[Context] = []
        self.lengths: list[tuple[int, int]] = []
        model.register_forward_pre_hook(lambda _, args: self.contexts.append(args[1]))
        model.head.register_forward_hook(lambda _, args, out: self.lengths.append(tuple(out.shape[:2])))


def test_positions_count_real_tokens_per_row(plain):
    _, padded, mask = prompts()
    seen = Recorder(plain)
    plain.generate(padded, 3, mask=mask, temperature=0)
    first, *others = (context.positions for context in seen.contexts)
    for length, row in zip(LENGTHS, first, strict=True):
        assert row[-length:].tolist() == list(range(length))
        assert (row >= 0).all()
    for step, positions in enumerate(others):
        assert positions.tolist() == [[length + step] for length in LENGTHS]


def test_without_padding_there_is_no_mask_and_logits_are_of_the_last_token_alone(plain):
    prompt = tokens(3, 6)
    expected = plain.generate(prompt, 4, temperature=0)
    seen = Recorder(plain)
    for mask in (None, torch.ones(3, 6, dtype=torch.bool), torch.ones(3, 6, dtype=torch.int64)):
        assert torch.equal(plain.generate(prompt, 4, mask=mask, temperature=0), expected)
    assert all(context.mask is None and context.positions is None for context in seen.contexts)
    assert set(seen.lengths) == {(3, 1)}


def test_embeddings_stand_for_their_tokens(model):
    _, padded, mask = prompts()
    embedded = model.embedding(padded)
    expected = model.generate(padded, 8, mask=mask, temperature=0)
    assert torch.equal(model.generate(padded, 8, embeddings=embedded, mask=mask, temperature=0), expected)
    only_new = model.generate(None, 8, embeddings=embedded, mask=mask, temperature=0)
    assert torch.equal(only_new, expected[:, padded.shape[1] :])
    other = model.generate(padded, 8, embeddings=embedded.flip(-1), mask=mask, temperature=0)
    assert not torch.equal(other, expected)


def test_tokens_beside_embeddings_are_history_for_the_processors(plain):
    histories = []

    def note(history, logits, mask):
        histories.append((history.clone(), None if mask is None else mask.clone()))
        return logits

    rows, padded, mask = prompts()
    embedded = plain.embedding(padded)
    result = plain.generate(padded, 3, embeddings=embedded, mask=mask, processors=[note])
    for step, (history, real) in enumerate(histories):
        assert torch.equal(history, result[:, : padded.shape[1] + step])
        assert torch.equal(real, torch.cat([mask, torch.ones(len(rows), step, dtype=torch.bool)], 1))
    histories.clear()
    result = plain.generate(None, 3, embeddings=embedded, mask=mask, processors=[note])
    assert [history.tolist() for history, _ in histories] == [result[:, :step].tolist() for step in range(3)]
    assert all(real.shape == history.shape and real.all() for history, real in histories)


def test_rows_end_are_filled_and_decoding_stops_early(plain):
    prompt = tokens(4, 5)
    free = plain.generate(prompt, 30, temperature=0)[:, 5:]
    end = int(free[0, 3])
    steps = []
    found = plain.generate(prompt, 30, temperature=0, end_token=end, padding_token=1, progress=steps.append)[:, 5:]
    lengths = [row.tolist().index(end) + 1 if end in row else 30 for row in free]
    assert len(set(lengths)) > 1
    assert found.shape[1] == max(lengths)
    assert steps == list(range(1, max(lengths) + 1))
    for row, expected, length in zip(found, free, lengths, strict=True):
        assert torch.equal(row[:length], expected[:length])
        assert (row[length:] == 1).all()
    shortest = min(range(4), key=lengths.__getitem__)
    single = plain.generate(prompt[shortest : shortest + 1], 30, temperature=0, end_token=end)
    assert single.shape[1] == 5 + lengths[shortest]
    # without a token of its own the end token fills
    filled = plain.generate(prompt, 30, temperature=0, end_token=end)[:, 5:]
    assert (filled[shortest, lengths[shortest] :] == end).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_processors_run_in_turn_before_the_choice(plain, temperature):
    def forbid(*banned):
        def process(history, logits, mask):
            assert logits.dtype == torch.float32
            return logits.index_fill(1, torch.tensor(banned), -math.inf)

        return process

    def only_evens(history, logits, mask):
        assert logits[:, 4].isinf().all()
        return logits.masked_fill(torch.arange(VOCABULARY) % 2 == 1, -math.inf)

    new = plain.generate(tokens(), 40, temperature=temperature, processors=[forbid(4, 6), only_evens])[:, 11:]
    assert (new % 2 == 0).all()
    assert not torch.isin(new, torch.tensor([4, 6])).any()


def test_no_ngram_comes_twice_under_greedy(plain):
    prompt = tokens(3, 4)

    def repeats(rows, size):
        grams = [[tuple(row[k : k + size]) for k in range(len(row) - size + 1)] for row in rows.tolist()]
        return sum(len(row) - len(set(row)) for row in grams)

    assert repeats(plain.generate(prompt, 60, temperature=0), 2) > 0
    assert repeats(plain.generate(prompt, 60, temperature=0, processors=[NoRepeatNGram(2, 100)]), 2) == 0


def test_processors_that_forbid_everything_are_an_error(plain):
    with pytest.raises(ValueError, match=r"forbid every token of row \d after \d+ new tokens"):
        plain.generate(tokens(), 40, temperature=0, processors=[NoRepeatNGram(1, 100)])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_has_ended_needs_no_choice(plain, temperature):
    def process(so_far: Tensor, logits: Tensor, mask: Tensor | None) -> Tensor:
        allowed = torch.zeros_like(logits, dtype=torch.bool)
        allowed[1:, 3] = True
        allowed[0, 5] = so_far.shape[1] == 2  # the first row ends with 5, and then has nothing
        return logits.masked_fill(~allowed, -math.inf)

    options = {"end_token": 5, "padding_token": 6, "temperature": temperature, "processors": [process]}
    assert plain.generate(torch.tensor([[1, 2], [3, 4]]), 3, **options)[:, 2:].tolist() == [[5, 6, 6], [3, 3, 3]]


def test_what_was_generated_can_be_learned(plain):
    result = plain.generate(tokens(), 3)
    plain(result).sum().backward()
    assert plain.embedding.weight.grad.abs().sum() > 0


def test_logits_of_the_last_tokens(plain):
    expected = plain(tokens())
    assert relative_error(plain(tokens(), last=3), expected[:, -3:]) < 1e-12
    assert relative_error(plain(tokens(), last=99), expected) < 1e-12
    with pytest.raises(ValueError, match="last must be at least 1, got 0"):
        plain(tokens(), last=0)


LEFT = torch.tensor([[False, True, True], [True, True, True]])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"temperature": math.nan}, "temperature"),
        ({"end_token": VOCABULARY}, "end_token must be a token from 0 to 22, got 23"),
        ({"end_token": -1}, "end_token"),
        ({"padding_token": -100}, "padding_token"),
        ({"mask": LEFT[:1]}, r"mask must be \[2, 3\]"),
        ({"mask": LEFT[:, 1:]}, r"mask must be \[2, 3\]"),
        ({"mask": LEFT.flip(1)}, "mask must be False on the left alone"),
        ({"mask": torch.zeros(2, 3)}, "True for the last token of every prompt"),
        ({"mask": torch.tensor([[True, False, True]] * 2)}, "mask must be False on the left alone"),
        ({"tokens": torch.zeros(3, dtype=torch.int64)}, "tokens must be a prompt"),
        ({"tokens": None}, "generate needs tokens or embeddings"),
        ({"embeddings": torch.zeros(2, 3, 5)}, r"embeddings must be a prompt \[B, S, 16\]"),
        ({"embeddings": torch.zeros(3, 16)}, "embeddings must be a prompt"),
        ({"embeddings": torch.zeros(2, 4, 16)}, "tokens and embeddings must be of the same prompts"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense_are_named(plain, arguments, named):
    with pytest.raises(ValueError, match=named):
        plain.generate(**({"tokens": tokens(2, 3), "max_new_tokens": 1} | arguments))
