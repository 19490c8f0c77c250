"""Token accuracy against how many tokens stand for a page, where variants differ in that."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from recipes.reports import style
from recipes.reports.analysis import Analysis
from recipes.reports.cells import DATA, Cell
from recipes.reports.format import count

TOKENS, RATIO = DATA


def measured(analysis: Analysis) -> bool:
    """Whether accuracies were measured at more than one number of visual tokens to the decoder."""
    return len({cell.value(TOKENS) for cell in _cells(analysis)}) > 1


def picture(analysis: Analysis, path: Path) -> str | None:
    """Accuracy by visual tokens to the decoder, a line for what else is varied; above, the answer's for each."""
    cells = _cells(analysis)
    lines: dict[str, list[Cell]] = {}
    for cell in cells:
        lines.setdefault(_rest(analysis, cell), []).append(cell)
    counts = sorted({cell.value(TOKENS) for cell in cells})
    ordered = not any(np.isnan(cell.value("val_order_accuracy")) for cell in cells)
    what = "val_order_accuracy" if ordered else "val_accuracy"
    hues = style.colours(list(lines), next(iter(lines)))
    made, (panel,) = style.figure(1, f"{analysis.ablation.name}: accuracy by visual tokens", width=6.2, height=4.0)
    ends = {}
    for name, of in lines.items():
        points = pd.DataFrame({"x": [cell.value(TOKENS) for cell in of], "y": [cell.value(what) for cell in of]})
        spread = points.groupby("x").y.agg(["mean", "min", "max"])
        panel.fill_between(spread.index, spread["min"], spread["max"], color=hues[name], alpha=0.18, lw=0)
        panel.plot(points.x, points.y, ".", color=hues[name], markersize=4, alpha=0.6)
        panel.plot(spread.index, spread["mean"], "o-", color=hues[name], markersize=5)
        ends[name] = (float(spread["mean"].iloc[-1]), hues[name])
    panel.set_xscale("log", base=2)
    panel.xaxis.set(major_locator=FixedLocator(counts), minor_locator=NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    panel.set(xlabel="visual tokens to the decoder", ylabel="order accuracy" if ordered else "token accuracy")
    if ordered and np.isfinite(analysis.blind):
        panel.axhline(analysis.blind, color=style.BASELINE, linewidth=1, linestyle=":")
        panel.annotate("without the order", (counts[0], analysis.blind), (0, 3), textcoords="offset points", fontsize=8)
    if len(lines) > 1:
        style.label_ends({panel: ends})
    ratios = {cell.value(TOKENS): cell.value(RATIO) for cell in cells}
    if np.isfinite(list(ratios.values())).all():
        above = panel.secondary_xaxis("top")
        above.xaxis.set(major_locator=FixedLocator(counts), minor_locator=NullLocator())
        above.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{ratios.get(round(value), np.nan):.3g}"))
        above.set_xlabel("answer tokens a visual token")
    seeds = count(len({cell.seed for cell in cells}), "seed")
    style.save(made, path, f"{seeds}; line: mean, band: smallest to largest, small dots: seeds")
    return None


def _cells(analysis: Analysis) -> list[Cell]:
    finished = [cell for cell in analysis.ablation.cells if cell.status == "finished"]
    return [cell for cell in finished if np.isfinite([cell.value(TOKENS), cell.value("val_accuracy")]).all()]


def _rest(analysis: Analysis, cell: Cell) -> str:
    """The levels of the axes that do not set how many visual tokens the decoder has."""
    by_level: dict[str, dict[str, set[float]]] = {}
    for each in _cells(analysis):
        for axis, level in each.axes.items():
            by_level.setdefault(axis, {}).setdefault(level, set()).add(each.value(TOKENS))
    return "+".join(level for axis, level in cell.axes.items() if any(len(v) > 1 for v in by_level[axis].values()))
