"""Loops, lengths and boxes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoders.grounding import Region
from recipes.metrics.grounding import GroundingIoU, intersection_over_union
from recipes.metrics.loops import loop
from recipes.metrics.repetition import CompressionRatio, RepetitionRate, TokensPerPage

END = 9


def plain(tokens: list[int], period: int, times: int, length: int) -> bool:
    """Whether some n-gram follows itself, tried at every place."""
    return any(
        all(tokens[k] == tokens[k + n] for k in range(start, start + needed - n))
        for n in range(1, period + 1)
        for needed in [max(times * n, length)]
        for start in range(len(tokens) - needed + 1)
    )


@given(st.lists(st.integers(0, 1), max_size=24), st.integers(1, 4), st.integers(2, 4), st.integers(1, 8))
def test_a_loop_is_found_where_a_plain_search_finds_one(tokens, period, times, length):
    found = loop(tokens, period=period, times=times, length=length)
    assert (found is not None) == plain(tokens, period, times, length)
    if found:
        start, n = found
        assert tokens[start : start + (times - 1) * n] == tokens[start + n : start + times * n]


def test_short_rows_are_no_loops():
    assert loop([1] * 47) is None
    assert loop([1] * 48) == (0, 1)
    assert loop([7, 8, *[1, 2, 3] * 16, 5]) == (2, 3)
    assert loop([*range(30)] * 5) is None
    assert loop([]) is None


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_the_repetition_rate_counts_pages_without_an_end_and_pages_with_loops():
    metric, other = RepetitionRate(END), RepetitionRate(END)
    # ended, with padding that is no loop; a loop that ended
    metric.update(torch.tensor([[1, 2, 3, END] + [0] * 60, [4, 5] * 30 + [END] + [0] * 3]))
    # cut off by the limit; both
    other.update([list(range(10, 60)), [3] * 64])
    metric.merge_state(other)
    assert {name: value.item() for name, value in metric.compute().items()} == {
        "no_end": 0.5, "loop": 0.5, "repetition": 0.75
    }  # fmt: skip
    assert torch.isnan(RepetitionRate(END).compute()["repetition"])


def test_tokens_and_compression_are_of_all_pages():
    tokens, ratio = TokensPerPage(), CompressionRatio()
    tokens.update([10, 20])
    tokens.update(torch.tensor([60]))
    assert tokens.compute() == 30
    ratio.update([1000, 200], [100, 100])
    assert ratio.compute() == 6
    with pytest.raises(ValueError, match="of the same pages, got 1 and 2"):
        ratio.update([1], [1, 2])


boxes = st.tuples(*[st.integers(0, 6)] * 4).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


@given(boxes, boxes)
def test_the_overlap_of_boxes_equals_counting_cells(first, second):
    def cells(box):
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    union = cells(first) | cells(second)
    expected = 1 if first == second else len(cells(first) & cells(second)) / len(union) if union else 0
    assert intersection_over_union(first, second) == pytest.approx(expected)
    assert intersection_over_union(second, first) == pytest.approx(expected)


def test_boxes_are_compared_by_label_in_their_order():
    truth = [Region("title", ((0, 0, 10, 10),)), Region("text", ((0, 20, 10, 30), (0, 30, 10, 40)))]
    metric = GroundingIoU()
    metric.update([truth], [truth])
    assert metric.compute() == 1
    metric.reset()
    found = [Region("text", ((0, 20, 10, 25),)), Region("figure", ((0, 0, 10, 10),))]
    # title, the second text and the figure have no partner
    metric.update([found], [truth])
    assert metric.compute() == pytest.approx(0.5 / 4)
    metric.update([[]], [[]])
    assert metric.compute() == pytest.approx(0.5 / 4)
    with pytest.raises(ValueError, match="every prediction needs its truth"):
        metric.update([], [truth])
