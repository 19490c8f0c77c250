"""The differences that a file names are those that are tested."""

import shutil

import pytest
from cells import write_ablation, write_cell, write_plan
from small_ablation import ABLATION, write

from recipes.ablation.comparisons import read_comparisons
from recipes.ablation.schema import Ablation
from recipes.configuration import read
from recipes.errors import UserError
from recipes.reports import figures, style
from recipes.reports.analysis import analyse
from recipes.reports.answer import answer
from recipes.reports.markdown import report
from recipes.reports.reading import read_ablation

PLAN = """# Does it hold?
# python -m recipes.fit --config ablations/mhc_vs_hc.yaml
ablation:
  seeds: [0, 1, 2]
  comparisons: [[mhc, hc]]
  axes:
    topology: {residual: {}, hc: {}, mhc: {}}
"""


def test_the_file_names_them(tmp_path):
    path = write(tmp_path, ABLATION.replace("seeds:", "comparisons: [[mhc, residual]]\n  seeds:"))
    assert Ablation.read(read(path)).comparisons == (("mhc", "residual"),)
    assert Ablation.read(read(write(tmp_path, ABLATION))).comparisons == ()


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("[[mhc, residul]]", r"comparisons\[0\]: there is no variant 'residul'; .*'residual'"),
        ("[[mhc, residual], [residual, mhc]]", r"comparisons\[1\]: residual and mhc are there twice"),
        ("[[mhc, mhc]]", r"comparisons\[0\]: mhc and mhc are the same"),
        ("[[mhc]]", r"comparisons\[0\]: must be a list of pairs \[variant, reference\]"),
        ("[]", r"comparisons: must be a list of pairs"),
        ("{mhc: hc}", r"comparisons: must be a list of pairs"),
    ],
)
def test_a_wrong_node_names_file_key_and_remedy(tmp_path, node, message):
    path = write(tmp_path, ABLATION.replace("seeds:", f"comparisons: {node}\n  seeds:"))
    with pytest.raises(UserError, match=rf"{path.name}: ablation\.{message}"):
        Ablation.read(read(path))


def test_no_others_are_tested_or_corrected_for(tmp_path):
    folder = write_ablation(tmp_path / "results" / "mhc_vs_hc")
    every = analyse(read_ablation(folder))
    assert {(d.variant, d.reference) for d in every.differences} == {("hc", "residual"), ("mhc", "residual")}
    write_plan(folder, PLAN)
    found = analyse(read_ablation(folder))
    (difference,) = found.differences
    assert (difference.variant, difference.reference) == ("mhc", "hc")
    assert difference.adjusted == difference.p > 0
    text = report(found, [], [])
    assert "They are those that `ablation.comparisons` names" in text
    assert "| mhc - hc |" in text
    assert "| hc - residual |" not in text
    assert "names; no others" not in report(every, [], [])


def test_the_picture_shows_them(tmp_path, monkeypatch):
    folder = write_ablation(tmp_path / "results" / "mhc_vs_hc")
    drawn = []
    monkeypatch.setattr(style, "save", lambda made, path, caption: drawn.append(made))
    for plan in (None, PLAN):
        if plan:
            write_plan(folder, plan)
        assert figures.loss(analyse(read_ablation(folder)), tmp_path / "loss.png") is None
    every, named = ([text.get_text() for text in made.axes[1].texts] for made in drawn)
    assert sorted(every) == ["hc", "mhc", "residual"]
    assert named == ["mhc - hc"]
    titles = [made.axes[1].get_title(loc) for made in drawn for loc in ("left", "center")]
    assert any("minus residual's" in title for title in titles[:2])
    assert any("differences that are compared" in title for title in titles[2:])


def test_pairs_without_seeds_in_common_are_not_said_to_be_all(tmp_path):
    folder = write_ablation(tmp_path / "results" / "mhc_vs_hc")
    for seed in (1, 2):
        shutil.rmtree(folder / "mhc" / f"seed-{seed}")
    write_plan(folder, PLAN)
    found = analyse(read_ablation(folder))
    assert found.differences[0].n == 1
    text = report(found, [], [])
    assert "No pair that `ablation.comparisons` names has two finished seeds in common" in text
    assert "no others were tested" not in text
    # no column of differences to a baseline that nothing is compared with
    assert "minus residual" not in text
    shutil.rmtree(folder / "mhc" / "seed-0")
    write_cell(folder, "mhc", 5, loss=2.4)
    assert "no pair that is to be compared shares a finished seed" in answer(analyse(read_ablation(folder)))


def test_a_broken_node_is_named_and_the_rest_is_reported(tmp_path):
    folder = write_ablation(tmp_path / "results" / "mhc_vs_hc")
    write_plan(folder, PLAN.replace("[[mhc, hc]]", "[[mhc, hcc]]"))
    found = read_ablation(folder)
    assert any("comparisons[0]: there is no variant 'hcc'" in problem for problem in found.problems)
    assert len(analyse(found).differences) == 2


def test_names_of_several_axes():
    assert read_comparisons([["a+1", "b+1"]], ["a+1", "b+1"], ValueError) == (("a+1", "b+1"),)
