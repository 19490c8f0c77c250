"""No n-gram twice in a window: equal to its definition in plain Python, and to transformers' sliding window."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mhc.decoding import NoRepeatNGram

VOCABULARY = 5


def forbidden(row: list[int], size: int, window: int, allowed: tuple[int, ...]) -> set[int]:
    """The definition: every token that, put at the end, makes an n-gram that the last `window` tokens hold."""
    seen = row[-window:]
    held = {tuple(seen[k : k + size]) for k in range(len(seen) - size + 1)}
    if len(row) < size - 1:
        return set()
    ending = tuple(row[len(row) - size + 1 :])
    return {token for token in range(VOCABULARY) if (*ending, token) in held and token not in allowed}


@st.composite
def cases(draw):
    lengths = draw(st.lists(st.integers(0, 16), min_size=1, max_size=4))
    # few tokens, so that n-grams come back
    rows = [draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=n, max_size=n)) for n in lengths]
    size = draw(st.integers(1, 5))
    window = draw(st.integers(size, 20))
    allowed = tuple(draw(st.sets(st.integers(0, VOCABULARY - 1), max_size=2)))
    return rows, size, window, allowed, draw(st.integers(0, VOCABULARY - 1))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(cases())
def test_it_is_its_definition_row_by_row_whatever_the_padding(case):
    rows, size, window, allowed, filler = case
    longest = max(map(len, rows))
    tokens = torch.tensor([[filler] * (longest - len(row)) + row for row in rows]).view(len(rows), longest)
    mask = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in rows]).view(len(rows), longest)
    logits = torch.randn(len(rows), VOCABULARY)
    result = NoRepeatNGram(size, window, allowed)(tokens, logits, mask)
    for row, before, after in zip(rows, logits, result, strict=True):
        banned = forbidden(row, size, window, allowed)
        expected = [-math.inf if token in banned else float(before[token]) for token in range(VOCABULARY)]
        assert after.tolist() == expected


@pytest.mark.parametrize(("size", "window"), [(1, 4), (2, 2), (2, 30), (3, 9), (4, 50), (20, 90)])
def test_without_padding_it_is_transformers_sliding_window(size, window):
    generation = pytest.importorskip("transformers.models.unlimited_ocr.generation_unlimited_ocr")
    oracle = generation.UnlimitedOcrSlidingWindowNoRepeatNgramLogitsProcessor(size, window)
    ours = NoRepeatNGram(size, window)
    generator, banned = torch.Generator().manual_seed(0), 0
    for length in (1, 2, 3, 5, 19, 20, 60, 120):
        for _ in range(10):
            tokens = torch.randint(3, (3, length), generator=generator)
            if length > 2 * size:
                tokens[0, length - size :] = tokens[0, length - 2 * size : length - size]
            logits = torch.randn(3, 7, generator=generator)
            result = ours(tokens, logits)
            assert torch.equal(result, oracle(tokens, logits))
            banned += int(result.isinf().sum())
    assert banned > 0


def test_allowed_tokens_stay_though_they_repeat():
    tokens = torch.tensor([[1, 2, 1, 3, 1]])
    logits = torch.zeros(1, VOCABULARY)
    assert NoRepeatNGram(2, 9)(tokens, logits).isinf()[0].tolist() == [False, False, True, True, False]
    assert NoRepeatNGram(2, 9, allowed=(3,))(tokens, logits).isinf()[0].tolist() == [False, False, True, False, False]


def test_padding_that_looks_like_the_ending_is_no_history():
    tokens, logits = torch.tensor([[2, 3, 2, 3, 2]]), torch.zeros(1, VOCABULARY)
    processor = NoRepeatNGram(2, 9)
    assert processor(tokens, logits).isinf().any()
    for real in (1, 2):
        mask = torch.arange(5)[None] >= 5 - real
        assert torch.equal(processor(tokens, logits, mask), logits)
    # an ending of padding is no ending
    assert torch.equal(processor(tokens, logits, torch.arange(5)[None] < 4), logits)


def test_nothing_is_forbidden_before_there_is_an_ngram():
    logits = torch.randn(2, VOCABULARY)
    for length in range(4):
        assert torch.equal(NoRepeatNGram(4, 9)(torch.zeros(2, length, dtype=torch.int64), logits), logits)


def test_one_token_is_an_ngram_too():
    result = NoRepeatNGram(1, 2)(torch.tensor([[0, 1, 2]]), torch.zeros(1, VOCABULARY))
    assert result.isinf()[0].tolist() == [False, True, True, False, False]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_given_logits_stay_as_they_are(dtype):
    tokens, logits = torch.tensor([[1, 1, 1]]), torch.randn(1, VOCABULARY).to(dtype)
    before = logits.clone()
    result = NoRepeatNGram(2, 9)(tokens, logits)
    assert torch.equal(logits, before)
    assert result.dtype == dtype
    assert result[0, 1] == -math.inf
    assert torch.equal(result[:, 2:], before[:, 2:])


def test_placeholders_outside_of_the_vocabulary_forbid_nothing():
    logits = torch.randn(1, VOCABULARY)
    for placeholder in (-100, VOCABULARY, 10**6):
        tokens = torch.tensor([[1, placeholder, 1]])
        assert torch.equal(NoRepeatNGram(2, 9)(tokens, logits), logits)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, 5), "size must be at least 1"),
        ((-1, 5), "size must be at least 1"),
        ((3, 2), "window must be at least size"),
        ((1, 0), "window must be at least size"),
        ((2, 5, (-1,)), "allowed must be token numbers"),
    ],
)
def test_numbers_that_make_no_sense_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        NoRepeatNGram(*arguments)


def test_an_allowed_token_beyond_the_vocabulary_is_named():
    with pytest.raises(ValueError, match="allowed has token 9, but the vocabulary has 5"):
        NoRepeatNGram(2, 5, (9,))(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, VOCABULARY))
