"""Published numbers beside ours: how a file says them, when they agree, and what the report shows."""

import math
from dataclasses import replace

import numpy as np
import pytest
from cells import write_ablation, write_cell, write_plan
from scipy import stats
from small_ablation import ABLATION, write

from recipes.ablation.published import Published
from recipes.ablation.schema import Ablation
from recipes.configuration import read
from recipes.errors import UserError
from recipes.reports.analysis import analyse
from recipes.reports.answer import answer
from recipes.reports.markdown import report
from recipes.reports.published import AGREES, DISAGREES, OPEN, UNTESTED, compare, comparisons
from recipes.reports.reading import read_ablation

PLAN = """# Does it hold?
# python -m recipes.fit --config ablations/mhc_vs_hc.yaml
ablation:
  seeds: [0, 1, 2]
  published:
    source: a paper, n = 3
    values:
      hc: {gain_forward: 4.3, val_loss: {mean: 2.47, sd: 0.03, n: 3}}
      mhc: {gain_forward: {low: 0.995, high: 1.005}, val_accuracy: 0.5}
  axes:
    topology: {residual: {}, hc: {}, mhc: {}}
"""


def one(value, measure="gain_forward"):
    node = {"source": "a paper", "values": {"hc": {measure: value}}}
    (number,) = Published.read(node, ["hc"], ValueError).numbers
    return number


def verdict(number, ours):
    """Of one comparison, with nothing to correct for."""
    found = compare(number, ours)
    return replace(found, adjusted=found.p).verdict


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (4.3, 4.25, 4.35, "4.3"),
        (10924, 10923.5, 10924.5, "10,924"),
        (0.88, 0.875, 0.885, "0.88"),
        ("1.00", 0.995, 1.005, "1.00"),
        ({"low": 6.1, "high": 7.6}, 6.1, 7.6, "6.1 to 7.6"),
        ({"mean": 0.88, "sd": 0.033, "n": 3}, 0.847, 0.913, "0.88 ± 0.033 (n = 3)"),
    ],
)
def test_a_number_stands_for_what_rounds_to_it(value, low, high, text):
    number = one(value)
    assert (number.low, number.high) == pytest.approx((low, high))
    assert number.text == text
    assert number.single == (not isinstance(value, dict))


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("hc", r": must be \{source"),
        ("{values: {hc: {gain_forward: 1}}}", r": must be \{source"),
        ("{source: a, values: {hd: {gain_forward: 1}}}", r".values.hd: there is no such variant"),
        ("{source: a, values: {mhc: 1}}", r".values.mhc: must be a mapping"),
        ("{source: a, values: {mhc: {gain_foward: 1}}}", r"there is no such measure; did you mean 'gain_f"),
        ("{source: a, values: {mhc: {gain_forward: {low: 2, high: 1}}}}", r"gain_forward: must be a number, \{low"),
        ("{source: a, values: {mhc: {gain_forward: {mean: 2, sd: 1}}}}", r"gain_forward: must be a number, \{low"),
        ("{source: a, values: {mhc: {gain_forward: {mean: 2, sd: 1, n: 1}}}}", r"must be a number.*not \{'mean'"),
        ("{source: a, values: {mhc: {gain_forward: about 4}}}", r"must be a number.*not 'about 4'"),
        ("{source: a, values: {mhc: {gain_forward: yes}}}", r"must be a number.*not True"),
        ("{source: a, values: {}}", r"values: holds no number"),
    ],
)  # fmt: skip
def test_a_wrong_node_names_file_key_and_remedy(tmp_path, node, message):
    path = write(tmp_path, ABLATION + f"  published: {node}\n")
    with pytest.raises(UserError, match=f"small.yaml: ablation.published.*{message}"):
        Ablation.read(read(path))


def test_welch_is_scipys_of_the_runs_themselves():
    ours, theirs = [0.91, 0.95, 0.99, 0.94], np.array([0.84, 0.88, 0.93])
    number = one({"mean": float(theirs.mean()), "sd": float(theirs.std(ddof=1)), "n": 3}, "val_loss")
    found = compare(number, ours)
    assert found.p == pytest.approx(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)
    assert found.apart == "+0.0642"
    assert 0.05 < found.p < 0.2
    assert verdict(number, ours) == OPEN
    assert verdict(number, [loss + 0.2 for loss in ours]) == DISAGREES


def test_a_range_is_tested_by_its_nearer_end_on_a_log_scale():
    number, ours = one({"low": 6.1, "high": 7.6}), [7.0, 9.5, 8.0]
    assert compare(number, ours).p == pytest.approx(stats.ttest_1samp(np.log(ours), np.log(7.6)).pvalue)
    assert compare(number, ours).apart == "1.07 times it"
    assert verdict(number, ours) == OPEN
    assert verdict(number, [6.0, 7.0, 8.0]) == AGREES
    # on the plain scale the interval of these reaches below zero, and so the published range
    assert verdict(number, [401, 2500, 9000]) == DISAGREES
    assert verdict(number, [2.0, 2.1, 2.2]) == DISAGREES
    below = one({"low": 1.0, "high": 1.1}, "val_loss")
    assert compare(below, [1.3, 1.2, 1.4]).p == pytest.approx(stats.ttest_1samp([1.3, 1.2, 1.4], 1.1).pvalue)
    assert compare(below, [1.3, 1.2, 1.4]).apart == "+0.2"


def test_a_single_run_may_be_one_more_of_ours():
    """However many runs are ours, one more of the same kind is rejected at its level and no more often."""
    draw = np.random.default_rng(0)
    for n in (2, 4, 10):
        drawn = np.exp(draw.normal(1.5, 0.3, (1500, n + 1)))
        rejected = [compare(one(float(round(run, 4))), list(ours)).p < 0.05 for run, *ours in drawn]
        assert 0.03 < np.mean(rejected) < 0.07
    assert verdict(one(4.3), [8.7, 7.9, 9.4]) == DISAGREES
    assert verdict(one(4.3), [4.31, 4.34, 4.29]) == AGREES
    assert verdict(one("1.00"), [1.0000001, 1.0, 1.0]) == AGREES


@pytest.mark.parametrize("value", [4.3, {"low": 4, "high": 5}, {"mean": 4.3, "sd": 0.1, "n": 3}])
@pytest.mark.parametrize(
    ("ours", "apart"),
    [([], "not measured"), ([math.nan], "not measured"), ([9.0], "times it"), ([9.0, 9.0], "times it")],
)
def test_too_little_is_not_tested(value, ours, apart):
    found = compare(one(value), ours)
    assert math.isnan(found.p)
    assert found.apart.endswith(apart)
    assert verdict(one(value), ours) == UNTESTED


def test_a_gain_without_bound_disagrees():
    assert verdict(one(4.3), [5.0, math.inf]) == DISAGREES


def test_report_and_answer_show_each(tmp_path):
    folder = write_ablation(tmp_path / "a")
    write_plan(folder, PLAN)
    analysis = analyse(read_ablation(folder))
    text = report(analysis, [], [])
    rows = [[item.strip() for item in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    found = {(row[0], row[1]): row[2:] for row in rows if len(row) == 9 and row[1] != "of"}
    found = {key: row for key, row in found.items() if row[-1] in (AGREES, OPEN, DISAGREES, UNTESTED)}
    assert len(found) == 4
    assert found["hc", "forward gain, end"][:4] == ["4.3", "22 [18 to 26]", "3", "5.12 times it"]
    assert found["hc", "forward gain, end"][-1] == DISAGREES
    assert found["hc", "validation loss"][-1] == OPEN
    assert found["mhc", "forward gain, end"] == ["0.995 to 1.005", "1", "3", "within it", "no p", "no p", AGREES]
    assert found["mhc", "token accuracy"] == ["0.5", "–", "0", "not measured", "no p", "no p", UNTESTED]
    assert "Published: a paper, n = 3. Here: 200 optimizer steps." in text
    said = answer(analysis)
    assert "of 4 published numbers 1 agrees, 1 is not told apart, 1 disagrees and 1 is not tested" in said


def test_the_number_of_tests_is_corrected_for(tmp_path):
    folder = write_ablation(tmp_path / "a")
    write_plan(folder, PLAN)
    one, other = (found for found in comparisons(analyse(read_ablation(folder))) if not math.isnan(found.p))
    assert one.adjusted == pytest.approx(2 * one.p)
    assert other.adjusted == pytest.approx(max(other.p, 2 * one.p))


def test_losses_are_compared_at_the_budget_that_all_reached(tmp_path):
    folder = write_plan(tmp_path / "a", PLAN)
    for seed in range(3):
        write_cell(folder, "residual", seed, steps=100)
        write_cell(folder, "hc", seed, loss=2.0 + 0.01 * seed)
    analysis = analyse(read_ablation(folder))
    (loss,) = (
        found for found in comparisons(analysis) if (found.number.variant, found.number.measure) == ("hc", "val_loss")
    )
    assert loss.ours == list(analysis.losses["hc"].values())
    assert min(loss.ours) > 2.05  # not where they end


def test_an_untrained_loss_is_not_compared(tmp_path):
    folder = write_plan(tmp_path / "a", PLAN)
    for seed in range(3):
        write_cell(folder, "hc", seed, loss=math.log(256) + 0.001 * seed)
    text = report(analyse(read_ablation(folder)), [], [])
    assert (
        "| hc | validation loss | 2.47 ± 0.03 (n = 3) | – | 0 | ours are not trained | no p | no p | not tested |"
        in text
    )


def test_no_published_numbers_no_section(tmp_path):
    analysis = analyse(read_ablation(write_ablation(tmp_path / "a")))
    assert "ublished" not in report(analysis, [], [])


def test_a_broken_node_is_named_and_the_rest_is_reported(tmp_path):
    folder = write_plan(tmp_path / "a", PLAN.replace("gain_forward: 4.3", "gain: 4.3"))
    write_cell(folder, "hc", 0)
    text = report(analyse(read_ablation(folder)), [], [])
    assert "- ablation.yaml: published.values.hc.gain: there is no such measure" in text
    assert "## Published" not in text
