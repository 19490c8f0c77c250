"""Edit distances: against a plain loop, by their properties, and as means over pages and processes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.metrics.distance import distance_matrix, edits, normalised_distance, occurs
from recipes.metrics.edit_distance import EditDistance, FormulaEditDistance, ReadingOrderDistance
from recipes.metrics.normalisation import normalise_formula, normalise_text

words = st.text("abc", max_size=12)


def plain(first: str, second: str) -> int:
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        corner, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (a != b))
    return row[-1]


@given(words, words)
def test_edits_equal_a_plain_loop_and_the_matrix_its_entries(first, second):
    assert edits(first, second) == edits(list(first), list(second)) == plain(first, second)
    longest = max(len(first), len(second))
    expected = plain(first, second) / longest if longest else 0
    assert normalised_distance(first, second) == expected
    found = distance_matrix([first, "ab"], [second, first, "c"])
    assert found.shape == (2, 3)
    assert found[0, 0] == expected
    assert found[0, 1] == 0


@given(words, words)
def test_the_distance_is_zero_for_equals_symmetric_and_at_most_one(first, second):
    distance = normalised_distance(first, second)
    assert distance == normalised_distance(second, first)
    assert 0 <= distance <= 1
    assert (distance == 0) == (first == second)


@settings(max_examples=200)
@given(st.text("ab", max_size=6), st.text("ab", max_size=30), st.sampled_from([0.2, 0.4, 0.5, 0.6]), st.booleans())
def test_a_piece_is_found_in_the_window_that_a_scan_finds(piece, text, tolerance, inclusive):
    windows = [text[start : start + len(piece)] for start in range(len(text) - len(piece) + 1)] if piece else []
    nearest = min((plain(window, piece) / len(piece) for window in windows), default=math.inf)
    expected = nearest <= tolerance if inclusive else nearest < tolerance
    assert occurs(piece, text, tolerance, inclusive=inclusive) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A b, c!\n\t- d_e", "Abcd_e"),
        ("中文，字。", "中文字"),
        (r"at $\alpha_1$ and \(x^{2}\)", "atα_1andx2"),
        ("costs $5 or $10", "costs5or10"),
        ("", ""),
    ],
)
def test_texts_lose_spaces_and_punctuation_and_mathematics_becomes_unicode(text, expected):
    assert normalise_text(text) == expected


@given(st.text("ab$\\\\{}^_&% \\n", max_size=20))
def test_no_text_is_refused(text):
    assert all(letter.isalnum() or letter == "_" for letter in normalise_text(text))
    assert normalise_formula(text) == normalise_formula(text).lower()


@pytest.mark.parametrize(
    "formula",
    [
        r"\[ E = m c^{2} \tag{1} \]",
        "$$\nE=mc^{2}\n$$",
        r"\[\mathrm E = \mathbf m \hspace{1em} c^{2}\].",
        r"\begin{array}{l} E=m \quad c^{2} \end{array}",
    ],
)
def test_formulas_lose_delimiters_fonts_and_labels(formula):
    assert normalise_formula(formula).replace("{l}", "") == "e=mc^{2}"


def test_the_distance_of_a_page_is_the_sum_of_edits_over_the_sum_of_lengths():
    metric = EditDistance()
    metric.update([["abcd", ""]], [("abcx", "ab")])
    assert metric.compute() == (1 + 2) / (4 + 2)
    metric.update(["same", "", "x y"], ["s-a-m-e", " . ", "yx"])
    # the empty page is not counted
    assert metric.compute() == pytest.approx((0.5 + 0 + 1) / 3)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_counted_is_no_number():
    assert torch.isnan(EditDistance().compute())


def test_formulas_and_orders_are_means_over_pages():
    formulas = FormulaEditDistance()
    formulas.update([r"\[ a + b \]", "$$x$$"], ["$$a+c$$", r"\mathbf x"])
    assert formulas.compute() == pytest.approx((1 / 3 + 0) / 2)
    orders = ReadingOrderDistance()
    orders.update([[1, 2, 3], [2, 1, 4], [], []], [[3, 2, 1], [1, 2, 3, 4], [5], []])
    assert orders.compute() == pytest.approx((0 + 2 / 4 + 1) / 3)


@pytest.mark.parametrize(
    ("make", "pages"),
    [
        (EditDistance, [("ab", "ac"), ("xyz", "xyz"), ("", "q")]),
        (ReadingOrderDistance, [([1, 2], [1, 2]), ([2, 1], [1, 2, 3]), ([], [1])]),
    ],
)
def test_processes_add_their_pages(make, pages):
    whole, parts = make(), [make(), make()]
    for number, (prediction, truth) in enumerate(pages):
        for metric in (whole, parts[number % 2]):
            metric.update([prediction], [truth])
    parts[0].merge_state(parts[1])
    assert parts[0].compute() == pytest.approx(whole.compute().item())
    assert whole.compute() != 0


def test_predictions_without_truths_are_refused():
    with pytest.raises(ValueError, match="every prediction needs its truth, got 1 and 2"):
        EditDistance().update([["a"]], [["a", "b"]])
    for metric in (EditDistance(), ReadingOrderDistance()):
        with pytest.raises(ValueError, match="every prediction needs its truth, got 2 and 1"):
            metric.update(["a", "b"], ["a"])
