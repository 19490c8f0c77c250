"""When the gain passes 10, 100 and 1000, and the picture along an axis of numbers."""

import math

import matplotlib.image
import numpy as np
import pytest
from cells import write_ablation, write_cell, write_plan

from recipes.report import write_report
from recipes.reports import gains
from recipes.reports.analysis import analyse
from recipes.reports.answer import answer
from recipes.reports.markdown import report
from recipes.reports.reading import read_ablation
from recipes.reports.sweep import numbers, swept

PLAN = """# Does it grow?
# python -m recipes.fit --config ablations/depth.yaml
ablation:
  seeds: [0, 1]
  axes:
    topology: {hc: {}, mhc: {}}
    depth: {d04: {model.depth: 4}, d08: {model.depth: 8}, d16: {model.depth: 16}}
    rate: {x1: {model.lr: 1e-3}, x3: {model.lr: 3e-3}}
"""
GROWTH = {"d04": 3.0, "d08": 40.0, "d16": 2000.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_plan(tmp_path_factory.mktemp("results") / "depth", PLAN)
    for depth, growth in GROWTH.items():
        for rate in ("x1", "x3"):
            for seed in (0, 1):
                axes = {"depth": depth, "rate": rate}
                place = f"{depth}+{rate}"
                write_cell(folder, f"hc+{place}", seed, gain=growth * (1 + seed), axes={"topology": "hc"} | axes)
                write_cell(folder, f"mhc+{place}", seed, gain=1.0, axes={"topology": "mhc"} | axes)
    write_report(folder)
    return folder


def test_passing_steps_are_the_first_measured_ones(folder):
    ablation = read_ablation(folder)
    for seed, cell in enumerate(ablation.of("hc+d16+x1")):
        for threshold in gains.THRESHOLDS:
            # the cells' gain grows as final^(step / 200) and is measured every 10 steps
            first = 10 * math.ceil(200 * math.log(threshold) / math.log(2000.0 * (1 + seed)) / 10)
            assert gains.passed([cell], threshold) == [first]
    assert gains.passed(ablation.of("hc+d08+x1"), 100) == []
    assert gains.passed(ablation.of("mhc+d16+x1"), 10) == []


def test_table_counts_cells_that_pass(folder):
    text = (folder / "report.md").read_text()
    rows = {line.split("|")[1].strip(): [item.strip() for item in line.split("|")[2:-1]] for line in text.splitlines()
            if line.startswith("| hc") and " of 2" in line}  # fmt: skip
    assert set(rows) == {f"hc+{depth}+{rate}" for depth in ("d08", "d16") for rate in ("x1", "x3")}
    assert rows["hc+d08+x1"] == ["2 of 2, step 120 [110 to 130]", "0 of 2", "0 of 2"]
    assert rows["hc+d16+x3"][2].startswith("2 of 2, step ")
    assert "The forward gain of 8 other variants never passes 10." in text


def test_answer_says_where(folder):
    said = answer(analyse(read_ablation(folder)))
    assert (
        "passes, at some seed at least, 10 in 4 of 6 variants with hc, 100 in hc+d16+x1 and hc+d16+x3, 1,000 in" in said
    )


def test_without_growth_it_says_so(tmp_path):
    folder = write_plan(tmp_path / "a")
    for seed in range(2):
        write_cell(folder, "mhc", seed, gain=1.0, backward=1.02)
    analysis = analyse(read_ablation(folder))
    assert "No forward gain passes 10." in report(analysis, [], [])
    assert "passes" not in answer(analysis)


def test_picture_is_drawn_along_numbers_alone(folder, tmp_path):
    assert list(swept(analyse(read_ablation(folder)))) == ["depth"]  # two rates make no line
    pixels = matplotlib.image.imread(folder / "sweep.png")[..., :3]
    assert len(np.unique(pixels[::3, ::3].reshape(-1, 3), axis=0)) > 50
    assert "](sweep.png)" in (folder / "report.md").read_text()
    classes = write_ablation(tmp_path / "classes")
    write_report(classes)
    assert not (classes / "sweep.png").exists()


@pytest.mark.parametrize(
    ("levels", "found"),
    [
        ({"a": {"m.depth": 4}, "b": {"m.depth": 8}}, ("depth", {"a": 4.0, "b": 8.0})),
        (
            {f"n{n}": {"m.topology": {"class_path": "mhc.X", "init_args": {"streams": n}}} for n in (1, 2)},
            ("streams", {"n1": 1.0, "n2": 2.0}),
        ),
        ({"a": {"m.last": "rows"}, "b": {"m.last": "columns"}}, None),
        ({"a": {"m.res": True}, "b": {"m.res": False}}, None),
        ({"a": {"m.width": 4, "m.heads": 1}, "b": {"m.width": 8, "m.heads": 2}}, None),
        ({"a": {"m.topology": {"class_path": "X"}}, "b": {"m.topology": {"class_path": "Y"}}}, None),
        ({"a": {}, "b": {"m.depth": 8}}, None),
        ({"a": {}, "b": {}}, None),
    ],
)
def test_an_axis_of_numbers_varies_one_number(levels, found):
    assert numbers(levels) == found
