"""When the gain passes 10, 100 and 1000, and the picture along an axis of numbers."""

import math

import matplotlib.image
import numpy as np
import pytest
from cells import write_ablation, write_cell, write_plan
from matplotlib.figure import Figure

from recipes.report import write_report
from recipes.reports import gains, style
from recipes.reports.analysis import analyse
from recipes.reports.answer import answer
from recipes.reports.markdown import report
from recipes.reports.reading import read_ablation
from recipes.reports.sweep import lines, numbers, picture, published, swept

PLAN = """# Does it grow?
# python -m recipes.fit --config ablations/depth.yaml
ablation:
  seeds: [0, 1]
  published:
    source: a paper
    values: {hc+d08+x1: {gain_forward: 5000}, mhc+d16+x3: {val_loss: 0.5}}
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


@pytest.fixture(scope="module")
def analysis(folder):
    return analyse(read_ablation(folder))


def test_passing_steps_are_the_first_measured_ones(analysis):
    ablation = analysis.ablation
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
    assert "The forward gain of 8 other variants passes 10 nowhere." in text


def test_answer_says_where(analysis):
    said = answer(analysis)
    assert (
        "passes, at some seed at least, 10 in 4 of 6 variants with hc, 100 in hc+d16+x1 and hc+d16+x3, 1,000 in" in said
    )


def test_without_growth_it_says_so(tmp_path):
    folder = write_plan(tmp_path / "a")
    for seed in range(2):
        write_cell(folder, "mhc", seed, gain=1.0, backward=1.02)
    analysis = analyse(read_ablation(folder))
    assert "No forward gain passes 10 where it was measured." in report(analysis, [], [])
    assert "passes" not in answer(analysis)


def test_cells_without_the_series_are_not_counted(tmp_path):
    folder = write_plan(tmp_path / "a")
    for seed in range(3):
        write_cell(folder, "hc", seed, gain=400.0, metrics=seed > 0)
    assert "| hc | 2 of 2, step " in report(analyse(read_ablation(folder)), [], [])
    for seed in (1, 2):
        (folder / f"hc/seed-{seed}/metrics.csv").unlink()
    text = report(analyse(read_ablation(folder)), [], [])
    assert "400" in text
    assert "passes 10" not in text


@pytest.fixture
def panel():
    return Figure().subplots()


def test_lines_end_at_the_mean_of_the_last_level(analysis, panel):
    values = swept(analysis)["depth"][1]
    ends = lines(analysis, panel, "depth", values, "gain_forward")
    assert {name: y for name, (y, _) in ends.items()} == {"hc+x1": 3000, "hc+x3": 3000, "mhc+x1": 1, "mhc+x3": 1}
    assert ends["hc+x1"][1] == ends["hc+x3"][1] != ends["mhc+x1"][1]
    drawn = [line for line in panel.lines if len(line.get_xdata()) == 3]
    assert [list(line.get_ydata()) for line in drawn[:2]] == [[4.5, 60, 3000]] * 2
    assert list(drawn[0].get_xdata()) == [4, 8, 16]
    assert drawn[0].get_linestyle() != drawn[1].get_linestyle()


def test_published_numbers_are_marked(analysis, panel):
    values = swept(analysis)["depth"][1]
    (number,) = published(analysis, panel, "depth", values, "gain_forward")
    assert number.variant == "hc+d08+x1"
    assert (panel.lines[-1].get_xdata()[0], panel.lines[-1].get_ydata()[0]) == (8, 5000)
    assert [n.variant for n in published(analysis, panel, "depth", values, "val_loss")] == ["mhc+d16+x3"]


def test_the_picture_has_room_for_what_was_published(analysis, monkeypatch, tmp_path):
    saved = []
    monkeypatch.setattr(style, "save", lambda made, path, caption: saved.append((made, caption)))
    picture(analysis, tmp_path / "elsewhere.png")
    ((made, caption),) = saved
    forward, backward, loss = made.axes
    assert caption.endswith("diamond: published")
    assert forward.get_ylim()[1] > 5000 > 100 > backward.get_ylim()[1]
    assert loss.get_ylim()[0] < 0.5
    assert [panel.get_xlabel() for panel in made.axes] == ["depth"] * 3


def test_one_axis_of_numbers_alone_is_drawn(tmp_path):
    plan = (
        PLAN.split("  published")[0]
        + "  axes:\n    queries: {q4: {m.counts.48: 4}, q8: {m.counts.48: 8}, q16: {m.counts.48: 16}}\n"
    )
    folder = write_plan(tmp_path / "a", plan)
    for level, gain in (("q4", 1.0), ("q8", 1.5), ("q16", 2.0)):
        for seed in (0, 1):
            write_cell(
                folder,
                level,
                seed,
                gain=gain,
                axes={"queries": level},
                status="diverged" if (level, seed) == ("q16", 1) else "finished",
            )
    assert swept(analyse(read_ablation(folder)))["queries"][0] == "queries"  # 48 would be no name
    write_report(folder)
    assert matplotlib.image.imread(folder / "sweep.png").shape[0] > 400


def test_picture_is_drawn_along_numbers_alone(folder, analysis, tmp_path):
    assert list(swept(analysis)) == ["depth"]  # two rates make no line
    pixels = matplotlib.image.imread(folder / "sweep.png")[..., :3]
    assert len(np.unique(pixels[::3, ::3].reshape(-1, 3), axis=0)) > 50
    assert "](sweep.png)" in (folder / "report.md").read_text()
    classes = write_ablation(tmp_path / "classes")
    write_report(classes)
    assert not (classes / "sweep.png").exists()


@pytest.mark.parametrize(
    ("levels", "found"),
    [
        ({"a": {"m.depth": 4}, "b": {"m.depth": 8}}, ("m.depth", {"a": 4.0, "b": 8.0})),
        (
            {f"n{n}": {"m.topology": {"class_path": "mhc.X", "init_args": {"streams": n}}} for n in (1, 2)},
            ("m.topology.init_args.streams", {"n1": 1.0, "n2": 2.0}),
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
