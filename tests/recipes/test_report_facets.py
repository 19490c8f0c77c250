"""A grid of many variants is drawn in panels of a few, whose colours and heights agree."""

import matplotlib.image
import pytest
from cells import write_cell, write_plan

from recipes.reports import facets, figures, style
from recipes.reports.analysis import Analysis, analyse
from recipes.reports.reading import read_ablation

TOPOLOGIES = {"residual": 1.0, "hc": 900.0, "mhc": 1.0, "identity": 1.0, "other": 3.0}
PLACES = [(depth, rate) for depth in ("d04", "d08") for rate in ("x1", "x3")]
ALONE = "no residual to compare with"
PLAN = """# Does it grow?
ablation:
  seeds: [0, 1]
  axes:
    depth: {d04: {model.depth: 4}, d08: {model.depth: 8}}
    topology: {residual: {}, hc: {}, mhc: {}, identity: {}, other: {}}
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
                axes = {"depth": depth, "topology": topology, "rate": rate}
                hot = {"steps": 60, "status": "diverged"} if (topology, depth, rate) == ("hc", "d08", "x3") else {}
                slow = {"record": {"step_ms": 40.0 + seed + 40 * (topology == "mhc")}}
                loss = {"loss": 2.4 + 0.01 * seed + 0.1 * (topology == "mhc")}
                more = {"gain": gain, "axes": axes, "depth": 4} | loss | slow | hot
                write_cell(folder, f"{depth}+{topology}+{rate}", seed, **more)
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
    assert first.lines == {f"d04+{topology}+x1": topology for topology in TOPOLOGIES}
    assert first.reference == "d04+residual+x1"
    assert last.reference is None
    assert "residual" not in last.lines.values()
    assert first.hues["d04+residual+x1"] == style.BASELINE
    assert len(set(first.hues.values())) == len(TOPOLOGIES)
    for facet in found:
        for variant, name in facet.lines.items():
            assert facet.hues[variant] == first.hues[f"d04+{name}+x1"]


def test_few_variants_and_single_axes_share_one_panel(tmp_path):
    folder = write_plan(tmp_path / "few")
    for variant in ("residual", "hc", "mhc"):
        write_cell(folder, variant, 0)
    (only,) = facets.facets(analyse(read_ablation(folder)))
    assert (only.name, only.reference) == ("", "residual")
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
    assert "diverged, dashed to the cross: d08+hc+x3 2 of 2" in caption
    (legend,) = made.legends
    assert [text.get_text() for text in legend.get_texts()] == list(TOPOLOGIES)


def test_losses_are_compared_with_the_facets_own_reference(grid, saved, tmp_path):
    assert figures.loss(grid, tmp_path / "loss.png") is None
    ((made, _),) = saved
    assert [panel.get_title() for panel in made.axes[4:7]] == [
        f"minus {depth}+residual+{rate}" for depth, rate in PLACES[:3]
    ]
    heights = {panel.get_title(): [line.get_ydata()[-1] for line in panel.lines] for panel in made.axes[4:]}
    assert max(heights["minus d08+residual+x1"]) == pytest.approx(0.1)
    assert made.axes[7].get_title() == ALONE


def test_step_times_are_over_the_facets_own_reference(grid, saved, tmp_path):
    assert figures.cost(grid, tmp_path / "cost.png") is None
    ((made, caption),) = saved
    labels = [panel.get_xlabel() for panel in made.axes]
    assert labels[:3] == [f"step time over {depth}+residual+{rate}'s" for depth, rate in PLACES[:3]]
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
