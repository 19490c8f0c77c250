"""How the pictures look: colours that colour-blind readers tell apart, labels at the lines' ends, a caption below."""

import math
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from recipes.files import replacing
from recipes.reports.analysis import Analysis
from recipes.reports.format import count, listed

# Okabe and Ito's palette without its yellow, which is too light for a line; the baseline is the grey
BASELINE = "#5f5f5f"
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

STOPPED = ", dashed to the cross"  # how lines of diverged cells are drawn

STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.edgecolor": "#888888",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "lines.linewidth": 1.6,
    "figure.dpi": 150,
    "savefig.dpi": 150,
}


def colours(variants: Sequence[str], baseline: str) -> dict[str, str]:
    """A colour for each variant: grey for the baseline; a light-to-dark scale where there are more than the palette."""
    others = [variant for variant in variants if variant != baseline]
    if len(others) <= len(COLOURS):
        chosen = list(COLOURS[: len(others)])
    else:
        scale = mpl.colormaps["viridis"](np.linspace(0, 0.82, len(others)))
        chosen = [mpl.colors.to_hex(colour) for colour in scale]
    return dict(zip(others, chosen, strict=True)) | {baseline: BASELINE}


def figure(
    columns: int, title: str, width: float = 4.9, height: float = 3.6, rows: int = 1, sharey: bool | str = False
) -> tuple[Figure, list[Axes]]:
    """Panels under one title, row by row, without pyplot's global state; a panel's width, and the height of all."""
    made = Figure(figsize=(width * columns, height), layout="constrained")
    FigureCanvasAgg(made)
    panels = list(np.ravel(made.subplots(rows, columns, sharey=sharey)))
    made.get_layout_engine().set(wspace=0.06)
    made.suptitle(title, fontsize=11, fontweight="bold", x=0.005, ha="left")
    return made, panels


def save(made: Figure, path: Path, caption: str) -> None:
    """Write the figure as a PNG, whole or not at all, with its caption below, no wider than its panels."""
    room = int(15 * made.get_size_inches()[0])  # letters of this size
    caption = "\n".join(textwrap.fill(line, room) for line in caption.splitlines())
    made.supxlabel(caption, fontsize=7.5, color="#555555", x=0.005, ha="left")
    with replacing(path) as file:
        made.savefig(file, format="png", bbox_inches="tight", pad_inches=0.12)


def caption(
    analysis: Analysis,
    *statuses: str,
    marks: str = "line: mean, band: smallest to largest",
    diverged: str = STOPPED,
) -> str:
    """How many seeds are shown and how, and which diverged."""
    ablation = analysis.ablation
    counts = {variant: len(ablation.of(variant, *statuses)) for variant in ablation.variants}
    usual, _ = Counter(counts.values()).most_common(1)[0]
    others = [f"{variant} {k}" for variant, k in counts.items() if k != usual]
    if len(others) <= len(COLOURS):
        seeds = f"n = {count(usual, 'seed')} per variant" + (f", but {listed(others)}" if others else "")
    else:
        seeds = f"n = {min(counts.values())} to {max(counts.values())} seeds per variant"
    ended = [f"{v} {k} of {len(ablation.of(v))}" for v in counts if (k := len(ablation.of(v, "diverged")))]
    return f"{seeds}; {marks}" + (f"\ndiverged{diverged}: {listed(ended)}" if ended else "")


def curve(axes: Axes, lines: Sequence[pd.Series], colour: str, style: str = "-", **drawn: Any) -> pd.Series:
    """Mean and band (smallest to largest) of series over the places that all have; returns the mean."""
    table = pd.concat(lines, axis=1, join="inner").sort_index() if lines else pd.DataFrame()
    table = table.replace([math.inf, -math.inf], math.nan).dropna()
    if table.empty:
        return pd.Series(dtype=float)
    mean = table.mean(axis=1)
    if table.shape[1] > 1:
        axes.fill_between(
            table.index, table.min(axis=1), table.max(axis=1), color=colour, alpha=0.18 * drawn.get("alpha", 1), lw=0
        )
    if colour == BASELINE:  # a wider line stays visible under one that coincides with it
        drawn = {"linewidth": 2.8, "alpha": 0.75} | drawn
    axes.plot(mean.index, mean, style, color=colour, **{"markersize": 3.5} | drawn)
    return mean


def legend(made: Figure, hues: Mapping[str, str]) -> None:
    """A key of the figure's colours ({name: colour}), to the right of its panels."""
    keys = [Line2D([], [], color=colour, marker="o", markersize=4) for colour in hues.values()]
    made.legend(keys, list(hues), loc="outside right upper", frameon=False)


def label_ends(panels: Mapping[Axes, Mapping[str, tuple[float, str]]], gap: float = 11.0) -> None:
    """Names to the right of each panel at the height of their lines' ends ({name: (y, colour)}), pushed apart."""
    next(iter(panels)).figure.draw_without_rendering()  # settles where the panels are
    for axes, ends in panels.items():
        _label_ends(axes, ends, gap)


def _label_ends(axes: Axes, ends: Mapping[str, tuple[float, str]], gap: float) -> None:
    inverse = axes.transAxes.inverted()
    places = [[axes.transData.transform((axes.get_xlim()[0], y))[1], name, c] for name, (y, c) in ends.items()]
    places.sort(key=lambda place: place[0])
    pixels = gap * axes.figure.dpi / 72
    low, high = axes.transAxes.transform((0, 0))[1], axes.transAxes.transform((0, 1))[1]
    heights = [min(max(place[0], low), high) for place in places]
    for _ in range(200):  # two labels too near push each other
        for k in range(len(heights) - 1):
            overlap = max(0.0, pixels - (heights[k + 1] - heights[k]))
            heights[k] -= overlap / 2
            heights[k + 1] += overlap / 2
    for k, height in enumerate(heights):  # none below the panel
        heights[k] = max(height, low, heights[k - 1] + pixels if k else low)
    for height, (_, name, colour) in zip(heights, places, strict=True):
        y = inverse.transform((0, height))[1]
        axes.annotate(name, (1.015, y), xycoords="axes fraction", color=colour, va="center", annotation_clip=False)


def label_points(axes: Axes, points: Sequence[tuple[float, float, str, str]], boxes: Sequence[Bbox]) -> None:
    """Names beside their points (x, y, name, colour), where they cover neither each other nor the boxes (data)."""
    axes.figure.draw_without_rendering()
    renderer = axes.figure.canvas.get_renderer()
    taken = [axes.transData.transform_bbox(box).padded(2) for box in boxes]
    frame = axes.get_window_extent(renderer)
    for x, y, name, colour in points:
        label = axes.annotate(
            name, (x, y), (8, 0), textcoords="offset points", color=colour, fontsize=8.5, linespacing=1.1, va="center"
        )
        best = None
        for distance, up, side in product((8, 22, 40), (0, 1, -1, 1.8, -1.8), (1, -1)):
            label.set(ha="left" if side > 0 else "right", position=(side * distance, up * 18))
            box = label.get_window_extent(renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            covered = sum(box.overlaps(other) for other in taken) + (not inside)
            if best is None or covered < best[0]:
                best = (covered, side, label.get_position(), box)
            if not covered:
                break
        _, side, position, box = best
        label.set(ha="left" if side > 0 else "right", position=position)
        taken.append(box)


def log_gain(axes: Axes, values: Sequence[float]) -> None:
    """A log scale for gains, with room around 1 and plain numbers where the range is small."""
    finite = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
    low, high = min(*finite, 1.0), max(*finite, 1.0)
    axes.set_yscale("log")
    pad = max((high / low) ** 0.06, 1.004)
    axes.set_ylim(low / pad, high * pad)
    axes.axhline(1, color="#999999", linewidth=0.8, linestyle=":", zorder=0)
    plain = FuncFormatter(lambda value, _: f"{value:,.6g}" if value < 1e6 else f"{value:.0e}")
    if high / low < 2:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(plain)
    elif high / low < 1e6:
        subs = (1, 1.5, 2, 3, 5, 7) if high / low < 12 else (1, 2, 5) if high / low < 200 else (1,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
        axes.yaxis.set_major_formatter(plain)
    else:
        axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())


def budget_axis(axes: Axes, label: str, scale: Callable[[float], str] | None = None) -> None:
    """Name the horizontal axis, with short numbers on it."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    if scale:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: scale(value)))
