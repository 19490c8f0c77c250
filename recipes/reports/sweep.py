"""Gain and loss along each axis whose levels are numbers: depth, streams, Sinkhorn steps, a learning rate."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from recipes.ablation.published import Number
from recipes.configuration import leaves
from recipes.reports import style
from recipes.reports.analysis import Analysis

LEAST = 3  # levels that make a line
LINES = ("-", "--", ":", "-.")
GAINS = ("gain_forward", "gain_backward")
TITLES = {
    "gain_forward": ("composite forward gain, end", "gain (log scale)"),
    "gain_backward": ("composite backward gain, end", "gain (log scale)"),
    "val_loss": ("validation loss", "cross-entropy (nats per token)"),
}


def numbers(levels: Mapping[str, Any]) -> tuple[str, dict[str, float]] | None:
    """The one number in which an axis's levels differ: its path, and its value for each; None where there is none."""
    flat = {level: dict(leaves(node)) for level, node in levels.items()}
    paths = {path for values in flat.values() for path in values}
    varied = [path for path in paths if len({repr(values.get(path)) for values in flat.values()}) > 1]
    if len(varied) != 1:
        return None
    found = {level: values.get(varied[0]) for level, values in flat.items()}
    if not all(type(value) in (int, float) and math.isfinite(value) for value in found.values()):
        return None
    return varied[0], {level: float(value) for level, value in found.items()}


def swept(analysis: Analysis) -> dict[str, tuple[str, dict[str, float]]]:
    """The axes along which there are enough numbers with a result to draw: axis -> (name, value of each level)."""
    found = {}
    drawn = [v for v in analysis.ablation.variants if any(analysis.measured(v, measure) for measure in TITLES)]
    for axis, levels in analysis.ablation.settings.items():
        known = numbers(levels)
        if known and len({analysis.ablation.levels(variant).get(axis) for variant in drawn} & set(known[1])) >= LEAST:
            name = known[0].rpartition(".")[2]
            found[axis] = name if name.isidentifier() else axis, known[1]
    return found


def picture(analysis: Analysis, path: Path) -> str | None:
    """A row of panels for each such axis: forward gain, backward gain and loss, a line for what else is varied."""
    axes, measures = swept(analysis), [measure for measure in TITLES if analysis.mixes or measure not in GAINS]
    title = f"{analysis.ablation.name}: along {' and '.join(name for name, _ in axes.values())}"
    shape = {"width": 4.9 if len(measures) > 1 else 6.4, "height": 0.4 + 3.4 * len(axes), "rows": len(axes)}
    made, panels = style.figure(len(measures), title, **shape)
    labels, marked = {}, False
    places = [(axis, name, values, measure) for axis, (name, values) in axes.items() for measure in measures]
    for panel, (axis, name, values, measure) in zip(panels, places, strict=True):
        ends = lines(analysis, panel, axis, values, measure)
        labels |= {panel: ends} if any(ends) else {}  # one line alone needs no name
        beside = published(analysis, panel, axis, values, measure)
        marked = marked or bool(beside)
        if measure in GAINS:
            ours = [gain for variant in analysis.ablation.variants for gain in analysis.measured(variant, measure)]
            style.log_gain(panel, [*ours, *(end for number in beside for end in (number.low, number.high))])
        panel.set(title=TITLES[measure][0], ylabel=TITLES[measure][1], xlabel=name)
        _ticks(panel, sorted(set(values.values())))
    if labels:
        style.label_ends(labels)
    marks = "line: mean, band: smallest to largest, small dots: seeds" + ("; diamond: published" if marked else "")
    diverged = " (counted in the gains, not in the losses)"
    style.save(made, path, style.caption(analysis, "finished", "diverged", marks=marks, diverged=diverged))
    return None


def lines(
    analysis: Analysis, panel: Axes, axis: str, values: Mapping[str, float], measure: str
) -> dict[str, tuple[float, str]]:
    """Draw a line for each combination of the other axes; returns where each ends and its colour."""
    points: dict[str, list[tuple[float, float]]] = {}
    for variant in analysis.ablation.variants:
        x = values.get(analysis.ablation.levels(variant).get(axis, ""))
        if x is not None:
            found = [(x, y) for y in analysis.measured(variant, measure) if math.isfinite(y)]
            points.setdefault("+".join(_rest(analysis, variant, axis)), []).extend(found)
    hues, strokes = _hues(analysis, axis), {}
    ends = {}
    for name, of in points.items():
        first, _, others = name.partition("+")
        stroke = strokes.setdefault(others, LINES[len(strokes) % len(LINES)])
        if not of:
            continue
        table = pd.DataFrame(of, columns=["x", "y"])
        spread = table.groupby("x").y.agg(["mean", "min", "max"])
        panel.fill_between(spread.index, spread["min"], spread["max"], color=hues[first], alpha=0.12, lw=0)
        panel.plot(table.x, table.y, ".", color=hues[first], markersize=3, alpha=0.6)
        panel.plot(spread.index, spread["mean"], stroke, marker="o", color=hues[first], markersize=4)
        ends[name] = (float(spread["mean"].iloc[-1]), hues[first])
    return ends


def published(analysis: Analysis, panel: Axes, axis: str, values: Mapping[str, float], measure: str) -> list[Number]:
    """Mark what was published of the variants that are drawn; returns it."""
    hues, found = _hues(analysis, axis), []
    for number in analysis.ablation.published.numbers if analysis.ablation.published else ():
        x = values.get(analysis.ablation.levels(number.variant).get(axis, ""))
        if number.measure == measure and x is not None:
            colour = hues[next(iter(_rest(analysis, number.variant, axis)), "")]
            panel.plot([x, x], [number.low, number.high], color=colour, linewidth=1)
            panel.plot(x, (number.low + number.high) / 2, "D", color=colour, markerfacecolor="white", markersize=6)
            found.append(number)
    return found


def _rest(analysis: Analysis, variant: str, axis: str) -> list[str]:
    """The variant's levels on the other axes."""
    return [level for other, level in analysis.ablation.levels(variant).items() if other != axis]


def _hues(analysis: Analysis, axis: str) -> dict[str, str]:
    """A colour for each level of the first other axis, the baseline's in grey where there is more than one."""
    first = list(dict.fromkeys(next(iter(_rest(analysis, v, axis)), "") for v in analysis.ablation.variants))
    base = next(iter(_rest(analysis, analysis.ablation.baseline, axis)), "")
    return style.colours(first, base) if len(first) > 1 else {first[0]: style.COLOURS[0]}


def _ticks(panel: Axes, values: list[float]) -> None:
    if values[0] > 0 and values[-1] / values[0] >= 8:
        panel.set_xscale("log", base=2)
    panel.xaxis.set(major_locator=FixedLocator(values), minor_locator=NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
