"""Gain and loss along each axis whose levels are numbers: depth, streams, Sinkhorn steps, a learning rate."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from recipes.configuration import leaves
from recipes.reports import style
from recipes.reports.analysis import Analysis
from recipes.reports.format import count

LEAST = 3  # levels that make a line
LINES = ("-", "--", ":", "-.")
Measure = Callable[[Analysis, str], list[float]]
GAINS: dict[str, Measure] = {
    "gain_forward": lambda analysis, variant: analysis.gains(variant, "gain_forward"),
    "gain_backward": lambda analysis, variant: analysis.gains(variant, "gain_backward"),
}
LOSS: dict[str, Measure] = {"val_loss": lambda analysis, variant: list(analysis.losses.get(variant, {}).values())}
TITLES = {
    "gain_forward": ("composite forward gain, end", "gain (log scale)"),
    "gain_backward": ("composite backward gain, end", "gain (log scale)"),
    "val_loss": ("validation loss", "cross-entropy (nats per token)"),
}


def numbers(levels: Mapping[str, Any]) -> tuple[str, dict[str, float]] | None:
    """The one number in which an axis's levels differ: its name, and its value for each; None where there is none."""
    flat = {level: dict(leaves(node)) for level, node in levels.items()}
    paths = {path for values in flat.values() for path in values}
    varied = [path for path in paths if len({repr(values.get(path)) for values in flat.values()}) > 1]
    if len(varied) != 1:
        return None
    found = {level: values.get(varied[0]) for level, values in flat.items()}
    if not all(type(value) in (int, float) and math.isfinite(value) for value in found.values()):
        return None
    return varied[0].rpartition(".")[2], {level: float(value) for level, value in found.items()}


def swept(analysis: Analysis) -> dict[str, tuple[str, dict[str, float]]]:
    """The axes along which there are enough numbers with a result to draw: axis -> (name, value of each level)."""
    found = {}
    for axis, levels in analysis.ablation.settings.items():
        known = numbers(levels)
        if known and len({analysis.ablation.levels(variant).get(axis) for variant in analysis.losses}) >= LEAST:
            found[axis] = known
    return found


def picture(analysis: Analysis, path: Path) -> str | None:
    """A row of panels for each such axis: forward gain, backward gain and loss, a line for what else is varied."""
    axes, measures = swept(analysis), (GAINS if analysis.mixes else {}) | LOSS
    made, panels = style.figure(
        len(measures), f"{analysis.ablation.name}: along {' and '.join(name for name, _ in axes.values())}",
        width=4.9 if len(measures) > 1 else 6.4, height=0.4 + 3.4 * len(axes), rows=len(axes),
    )  # fmt: skip
    labels = {}
    for row, (axis, (name, values)) in enumerate(axes.items()):
        hues, strokes = _looks(analysis, axis)
        for column, (measure, of) in enumerate(measures.items()):
            panel = panels[row * len(measures) + column]
            labels[panel] = _lines(analysis, panel, axis, values, of, hues, strokes)
            _published(analysis, panel, axis, values, measure, hues)
            title, unit = TITLES[measure]
            panel.set(title=title, ylabel=unit, xlabel=name)
            if measure in GAINS:
                style.log_gain(
                    panel, [gain for variant in analysis.ablation.variants for gain in of(analysis, variant)]
                )
            _ticks(panel, sorted(set(values.values())))
    style.label_ends({panel: ends for panel, ends in labels.items() if ends})
    seeds = count(len({cell.seed for cell in analysis.ablation.cells}), "seed")
    marks = "; diamond: published" if analysis.ablation.published else ""
    style.save(made, path, f"{seeds}; line: mean, band: smallest to largest, small dots: seeds{marks}")
    return None


def _rest(analysis: Analysis, variant: str, axis: str) -> list[str]:
    return [level for other, level in analysis.ablation.levels(variant).items() if other != axis]


def _looks(analysis: Analysis, axis: str) -> tuple[dict[str, str], dict[str, str]]:
    """A colour for each level of the first other axis, and a stroke for each combination of the rest."""
    rests = [_rest(analysis, variant, axis) for variant in analysis.ablation.variants]
    first = list(dict.fromkeys(rest[0] if rest else "" for rest in rests))
    base = _rest(analysis, analysis.ablation.baseline, axis)
    hues = style.colours(first, base[0] if base else "")
    others = list(dict.fromkeys("+".join(rest[1:]) for rest in rests))
    return hues, {other: LINES[k % len(LINES)] for k, other in enumerate(others)}


def _lines(
    analysis: Analysis, panel: Axes, axis: str, values: Mapping[str, float], of: Measure,
    hues: Mapping[str, str], strokes: Mapping[str, str],
) -> dict[str, tuple[float, str]]:  # fmt: skip
    """Draw a line for each combination of the other axes; returns where each ends."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for variant in analysis.ablation.variants:
        x = values.get(analysis.ablation.levels(variant).get(axis, ""))
        if x is not None:
            points = [(x, y) for y in of(analysis, variant) if math.isfinite(y)]
            lines.setdefault("+".join(_rest(analysis, variant, axis)), []).extend(points)
    ends = {}
    for name, points in lines.items():
        if not points:
            continue
        first, _, others = name.partition("+")
        colour, table = hues[first], pd.DataFrame(points, columns=["x", "y"])
        spread = table.groupby("x").y.agg(["mean", "min", "max"])
        panel.fill_between(spread.index, spread["min"], spread["max"], color=colour, alpha=0.12, lw=0)
        panel.plot(table.x, table.y, ".", color=colour, markersize=3, alpha=0.6)
        panel.plot(spread.index, spread["mean"], strokes[others], marker="o", color=colour, markersize=4)
        ends[name] = (float(spread["mean"].iloc[-1]), colour)
    return ends if any(ends) else {}


def _published(
    analysis: Analysis, panel: Axes, axis: str, values: Mapping[str, float], measure: str, hues: Mapping[str, str]
) -> None:
    for figure in analysis.ablation.published.figures if analysis.ablation.published else ():
        x = values.get(analysis.ablation.levels(figure.variant).get(axis, ""))
        if figure.measure == measure and x is not None:
            colour = hues[next(iter(_rest(analysis, figure.variant, axis)), "")]
            panel.plot([x, x], [figure.low, figure.high], color=colour, linewidth=1)
            panel.plot(x, (figure.low + figure.high) / 2, "D", color=colour, markerfacecolor="white", markersize=6)


def _ticks(panel: Axes, values: list[float]) -> None:
    if values[0] > 0 and values[-1] / values[0] >= 8:
        panel.set_xscale("log", base=2)
    panel.xaxis.set(major_locator=FixedLocator(values), minor_locator=NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
