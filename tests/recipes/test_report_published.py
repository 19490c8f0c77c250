"""Published numbers beside ours: how a file says them, when they agree, and what the report shows."""

import math

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
from recipes.reports.published import AGREES, DISAGREES, OPEN, verdict
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
    (figure,) = Published.read(node, ["hc"], ValueError).figures
    return figure


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (4.3, 4.25, 4.35, "4.3"),
        (10924, 10923.5, 10924.5, "10,924"),
        (0.88, 0.875, 0.885, "0.88"),
        ({"low": 6.1, "high": 7.6}, 6.1, 7.6, "6.1 to 7.6"),
        ({"mean": 0.88, "sd": 0.033, "n": 3}, 0.847, 0.913, "0.88 ± 0.033 (n = 3)"),
    ],
)
def test_a_number_stands_for_what_rounds_to_it(value, low, high, text):
    figure = one(value)
    assert (figure.low, figure.high) == pytest.approx((low, high))
    assert figure.text == text


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
    ],
)  # fmt: skip
def test_a_wrong_node_names_file_key_and_remedy(tmp_path, node, message):
    path = write(tmp_path, ABLATION + f"  published: {node}\n")
    with pytest.raises(UserError, match=f"small.yaml: ablation.published.*{message}"):
        Ablation.read(read(path))


def test_welch_is_scipys_of_the_runs_themselves():
    ours, theirs = [0.91, 0.95, 0.99, 0.94], np.array([0.84, 0.88, 0.93])
    figure = one({"mean": float(theirs.mean()), "sd": float(theirs.std(ddof=1)), "n": 3}, "val_loss")
    p = stats.ttest_ind(ours, theirs, equal_var=False).pvalue
    assert 0.05 < p < 0.2
    assert verdict(figure, ours) == (OPEN, f"+0.0642, p = {p:.3f} (Welch)")
    assert verdict(figure, [loss + 0.2 for loss in ours])[0] == DISAGREES


@pytest.mark.parametrize(
    ("value", "ours", "said", "why"),
    [
        (4.3, [4.31, 4.34, 4.29], AGREES, "within it"),
        (1.0, [1.0000001, 1.0, 1.0], AGREES, "within it"),
        ({"low": 6.1, "high": 7.6}, [7.0, 9.5, 8.0], OPEN, "1.07 times it, our 95 % interval 5.04 to 11.3"),
        ({"low": 6.1, "high": 7.6}, [401, 682, 825], DISAGREES, "83.7 times it, our 95 % interval 100 to 1,170"),
        ({"low": 6.1, "high": 7.6}, [5.0], DISAGREES, "0.82 times it (n = 1, no test)"),
    ],
)
def test_intervals(value, ours, said, why):
    assert verdict(one(value), ours) == (said, why)


def test_nothing_measured_is_no_agreement():
    assert verdict(one(4.3), [])[0] == "not measured"
    assert math.isnan(one(4.3).mean)


def test_report_and_answer_show_each(tmp_path):
    folder = write_ablation(tmp_path / "a")
    write_plan(folder, PLAN)
    analysis = analyse(read_ablation(folder))
    text = report(analysis, [], [])
    rows = [[item.strip() for item in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    found = {
        (row[0], row[1]): row[2:]
        for row in rows
        if len(row) == 7 and row[5] in (AGREES, OPEN, DISAGREES, "not measured")
    }
    assert len(found) == 4
    assert found["hc", "forward gain, end"][:4] == ["4.3", "22 [18 to 26]", "3", DISAGREES]
    assert found["hc", "validation loss"][3] == OPEN
    assert found["mhc", "forward gain, end"] == ["0.995 to 1.005", "1", "3", AGREES, "within it"]
    assert found["mhc", "token accuracy"][1:4] == ["–", "0", "not measured"]
    assert "Published: a paper, n = 3. Here: 200 optimizer steps." in text
    assert "of 4 published numbers 1 agrees, 1 not told apart, 1 disagrees and 1 not measured" in answer(analysis)


def test_no_published_numbers_no_section(tmp_path):
    analysis = analyse(read_ablation(write_ablation(tmp_path / "a")))
    assert "ublished" not in report(analysis, [], [])


def test_a_broken_node_is_named_and_the_rest_is_reported(tmp_path):
    folder = write_plan(tmp_path / "a", PLAN.replace("gain_forward: 4.3", "gain: 4.3"))
    write_cell(folder, "hc", 0)
    text = report(analyse(read_ablation(folder)), [], [])
    assert "- ablation.yaml: published.values.hc.gain: there is no such measure" in text
    assert "## Published" not in text
