"""A grid of many variants is drawn in panels of a few, whose colours and heights agree."""

import matplotlib.image
import pytest
from cells import write_cell, write_plan

from recipes.reports import facets, figures, style
from recipes.reports.analysis import Analysis, analyse
from recipes.reports.answer import answer
from recipes.reports.markdown import report
from recipes.reports.reading import read_ablation

TOPOLOGIES = {"residual": 1.0, "hc": 900.0, "mhc": 1.0, "identity": 1.0, "other": 3.0}
PLACES = [(depth, rate) for depth in ("d04", "d08") for rate in ("x1", "x3")]
ALONE = "no residual to compare with"
PLAN = """# Does it grow?
ablation:
  seeds: [0, 1]
  axes:
    topology: {residual: {}, hc: {}, mhc: {}, identity: {}, other: {}}
    depth: {d04: {model.depth: 4}, d08: {model.depth: 8}}
    rate: {x1: {model.lr: 1e-3}, x3: {model.lr: 3e-3}}
"""


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Analysis:
    """5 topologies x 2 depths x 2 rates; HC diverges at d08+x3, where the residual is missing."""
    folder = write_plan(tmp_path_factory.mktemp("results") / "grid", PLAN)
    for depth, rate in PLACES:
        for topology, gain in TOPOLOGIES.items():
            if (topology, depth, rate) == ("residual", "d08", "x3"):
                continue
            for seed in (0, 1):
                axes = {"topology": topology, "depth": depth, "rate": rate}
                hot = {"steps": 60, "status": "diverged"} if (topology, depth, rate) == ("hc", "d08", "x3") else {}
                slow = {"record": {"step_ms": 40.0 + seed + 40 * (topology == "mhc")}}
                loss = {"loss": 2.4 + 0.01 * seed + 0.1 * (topology == "mhc")}
                more = {"gain": gain, "axes": axes, "depth": 4} | loss | slow | hot
                write_cell(folder, f"{topology}+{depth}+{rate}", seed, **more)
    return analyse(read_ablation(folder))


@pytest.fixture
def saved(monkeypatch):
    """The figures that were to be written, with their captions."""
    made = []
    monkeypatch.setattr(style, "save", lambda figure, path, caption: made.append((figure, caption)))
    return made


def test_a_facet_for_each_combination_of_the_other_axes(grid):
    found = facets.facets(grid)
    assert [facet.name for facet in found] == ["d04+x1", "d04+x3", "d08+x1", "d08+x3"]
    first, last = found[0], found[-1]
    assert first.lines == {f"{topology}+d04+x1": topology for topology in TOPOLOGIES}
    assert first.reference == "residual+d04+x1"
    assert last.reference is None
    assert "residual" not in last.lines.values()
    assert first.hues["residual+d04+x1"] == style.BASELINE
    assert len(set(first.hues.values())) == len(TOPOLOGIES)
    for facet in found:
        for variant, name in facet.lines.items():
            assert facet.hues[variant] == first.hues[f"{name}+d04+x1"]


def write_topologies(folder, without="", diverged=""):
    plan = PLAN.replace("    rate: {x1: {model.lr: 1e-3}, x3: {model.lr: 3e-3}}\n", "").replace(
        "d04: {", "d02: {}, d04: {"
    )
    folder = write_plan(folder, plan)
    for topology in TOPOLOGIES:
        for depth in ("d02", "d04", "d08"):
            name, axes = f"{topology}+{depth}", {"topology": topology, "depth": depth}
            if name != without:
                write_cell(folder, name, 0, axes=axes, status="diverged" if name == diverged else "finished")
    return analyse(read_ablation(folder))


def test_a_baseline_without_a_cell_leaves_the_others_their_references(tmp_path):
    found = facets.facets(write_topologies(tmp_path / "a", without="residual+d02"))
    assert [facet.reference for facet in found] == [None, "residual+d04", "residual+d08"]
    assert {facet.hues[f"residual+{facet.name}"] for facet in found if facet.reference} == {style.BASELINE}
    assert {facet.compared("{}") for facet in found if not facet.reference} == {ALONE}


def test_a_reference_that_diverged_is_none(tmp_path, saved):
    analysis = write_topologies(tmp_path / "a", diverged="residual+d02")
    assert [facet.reference for facet in facets.facets(analysis)] == [None, "residual+d04", "residual+d08"]
    assert figures.cost(analysis, tmp_path / "cost.png") is None  # the other depths have theirs
    ((made, caption),) = saved
    assert made.axes[0].get_xlabel() == ALONE
    assert [bool(panel.lines) for panel in made.axes] == [False, True, True]
    assert "n = 1 seed per variant, but residual+d02 0" in caption


def test_few_variants_and_single_axes_share_one_panel(tmp_path):
    folder = write_plan(tmp_path / "few")
    for variant in ("residual", "hc", "mhc"):
        write_cell(folder, variant, 0)
    (only,) = facets.facets(analyse(read_ablation(folder)))
    assert (only.name, only.reference) == (None, "residual")
    assert only.lines == {v: v for v in ("residual", "hc", "mhc")}
    names = [f"n{number:02d}" for number in range(facets.FEW + 2)]
    plan = f"# Q?\nablation: {{seeds: [0], axes: {{streams: {{{', '.join(f'{name}: {{}}' for name in names)}}}}}}}\n"
    folder = write_plan(tmp_path / "long", plan)
    for name in names:
        write_cell(folder, name, 0, axes={"streams": name})
    (only,) = facets.facets(analyse(read_ablation(folder)))
    assert list(only.lines) == names


def test_gain_panels_share_their_heights_and_cross_what_diverged(grid, saved, tmp_path):
    assert figures.gain_by_step(grid, tmp_path / "gain.png") is None
    ((made, caption),) = saved
    assert len(made.axes) == 8
    assert [panel.get_title() for panel in made.axes[:4]] == [f"{depth}+{rate}: forward" for depth, rate in PLACES]
    assert len({panel.get_ylim() for panel in made.axes[:4]}) == 1
    assert made.axes[0].get_ylim()[1] > 900
    assert [bool(panel.get_ylabel()) for panel in made.axes] == [True, *[False] * 3] * 2
    crosses = [[line for line in panel.lines if line.get_marker() == "x"] for panel in made.axes]
    assert [len(of) for of in crosses] == [0, 0, 0, 2] * 2  # both seeds: no mean stands for them
    assert {line.get_xdata()[0] for line in crosses[3]} == {60}
    assert "diverged, dashed to the cross: hc+d08+x3 2 of 2" in caption
    (legend,) = made.legends
    assert [text.get_text() for text in legend.get_texts()] == list(TOPOLOGIES)


def test_losses_are_compared_with_the_facets_own_reference(grid, saved, tmp_path):
    assert figures.loss(grid, tmp_path / "loss.png") is None
    ((made, caption),) = saved
    assert "thick: validation, thin: training (smoothed); differences at the same seed" in caption
    assert [panel.get_title() for panel in made.axes[4:7]] == [
        f"minus residual+{depth}+{rate}" for depth, rate in PLACES[:3]
    ]
    heights = {panel.get_title(): [line.get_ydata()[-1] for line in panel.lines] for panel in made.axes[4:]}
    assert max(heights["minus residual+d08+x1"]) == pytest.approx(0.1)
    assert made.axes[7].get_title() == ALONE


def test_step_times_are_over_the_facets_own_reference(grid, saved, tmp_path):
    assert figures.cost(grid, tmp_path / "cost.png") is None
    ((made, caption),) = saved
    labels = [panel.get_xlabel() for panel in made.axes]
    assert labels[:3] == [f"step time over residual+{depth}+{rate}'s" for depth, rate in PLACES[:3]]
    assert labels[3] == ALONE
    assert not made.axes[3].lines  # there is nothing to divide by
    assert "diverged, not shown" in caption


def test_pictures_are_no_wider_than_their_panels(grid, tmp_path):
    drawn, left_out = figures.draw(grid, tmp_path)
    assert {"loss.png", "gain_by_depth.png", "gain_by_step.png", "cost.png"} <= set(drawn)
    assert not left_out
    for name in drawn:
        height, width, _ = matplotlib.image.imread(tmp_path / name).shape
        assert width < 2200, name
        assert height < 1300, name


def test_long_captions_are_broken(tmp_path):
    made, _ = style.figure(1, "title", width=4.0)
    style.save(made, tmp_path / "a.png", "seeds: " + ", ".join(f"variant{k} 3" for k in range(60)))
    assert matplotlib.image.imread(tmp_path / "a.png").shape[1] < 4.6 * 150


def test_parameters_matched_along_the_first_axis_are_called_so(tmp_path):
    plan = "# Q?\nablation: {seeds: [0, 1], axes: {topology: {a: {}, b: {}}, depth: {d1: {}, d2: {}}}}\n"
    folder = write_plan(tmp_path / "grid", plan)
    for topology in "ab":
        for depth in (1, 2):
            axes = {"topology": topology, "depth": f"d{depth}"}
            count = {"params": 1_000_000 * depth + 500 * (topology == "b")}
            more = {"matched": {"model.hidden": 8}} if topology == "b" else {}
            for seed in (0, 1):
                more["loss"] = 2.4 + 0.01 * seed * depth
                write_cell(folder, f"{topology}+d{depth}", seed, axes=axes, record=count, **more)
    analysis = analyse(read_ablation(folder))
    text = report(analysis, [], [])
    assert "parameters matched along topology (spread at most 0.05%), and along depth not (spread 100.05%)" in text
    assert "Matched by `model.hidden`: 8 for all with b." in text
    assert "| a+d2 | 2,000,000 |" in text
    assert "the variants' parameters differ by 100.0%, along topology by at most 0.1%" in answer(analysis)
