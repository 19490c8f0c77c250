"""The pictures of a report: loss, gain, sweeps, cost against loss; measured numbers alone."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from recipes.reports import facets, queries, style, sweep, tokens
from recipes.reports.analysis import STEADY, Analysis
from recipes.reports.cells import GAIN, Cell

Ends = dict[str, tuple[float, str]]  # variant -> where its line ends, and its colour
Place = tuple[float, float, str]  # of a cross, and its colour

KINDS = "thick: validation, thin: training (smoothed)"
AXIS = {"steps": "optimizer steps", "flops": "training FLOPs", "time": "training time (s, at the median step)"}


def draw(analysis: Analysis, folder: Path) -> tuple[list[str], list[str]]:
    """Write the PNGs that the measurements allow; returns their names, and a line for each that was left out."""
    drawn, left_out = [], []
    pictures = {"loss": loss, "gain_by_depth": gain_by_depth, "gain_by_step": gain_by_step, "cost": cost}
    asked = {"tokens": tokens.measured(analysis), "query_order": bool(queries.measured(analysis))}
    asked |= {"sweep": bool(sweep.swept(analysis))}
    pictures |= {"sweep": sweep.picture, "tokens": tokens.picture, "query_order": queries.picture}
    for name, picture in pictures.items():
        path = folder / f"{name}.png"
        if not asked.get(name, True):
            path.unlink(missing_ok=True)
            continue
        with mpl.rc_context(style.STYLE):
            reason = picture(analysis, path)
        if reason:
            path.unlink(missing_ok=True)  # one of an earlier run would show other cells
            left_out.append(f"{path.name}: {reason}")
        else:
            drawn.append(path.name)
    return drawn, left_out


def loss(analysis: Analysis, path: Path) -> str | None:
    """Training and validation loss, and beside them the validation loss minus the reference's, seed by seed.

    Where the file names its comparisons, it is these differences that are drawn.
    """
    ablation = analysis.ablation
    found = facets.facets(analysis)
    pairs = ablation.comparisons or [
        (variant, facet.reference)
        for facet in found
        for variant in facet.lines
        if facet.reference not in (None, variant)
    ]
    paired = {pair: lines for pair in pairs if (lines := _paired_curves(analysis, *pair))}
    shape = {"width": 5.2 if paired else 6.4, "height": max(3.6, 1.2 + 0.17 * len(ablation.variants))}
    made, (curves, *beside) = facets.panels(found, 2 if paired else 1, f"{ablation.name}: loss", **shape)
    ends, heights, stopped = {}, [], {}
    for panel, facet in zip(curves, found, strict=True):
        ends[panel], more, stopped[panel] = _loss_curves(analysis, panel, facet)
        heights += more
        panel.set(ylabel="cross-entropy (nats per token)", title=facet.title(KINDS))
    if not any(ends.values()):
        return "no loss was measured"
    for panel in curves:
        if heights:
            low, high = min(heights), max(heights)
            panel.set_ylim(low - 0.06 * (high - low or 1), high + 0.06 * (high - low or 1))
        _crosses(panel, stopped[panel])
    for panel, facet in zip(beside[0] if beside else (), found, strict=bool(beside)):
        alone = facet.reference and not ablation.comparisons
        ends[panel] = {facet.reference: (0.0, facet.hues[facet.reference])} if alone else {}
        for (variant, reference), lines in paired.items():
            if variant not in facet.lines:
                continue
            style.curve(panel, lines, facet.hues[variant], marker="o" if analysis.at == "steps" else "")
            name = variant if len(found) > 1 or not ablation.comparisons else f"{variant} - {reference}"
            ends[panel][name] = float(pd.concat(lines, axis=1).mean(axis=1).iloc[-1]), facet.hues[variant]
        panel.axhline(0, color=style.BASELINE, linewidth=1)
        minus = facet.title("validation loss minus {}'s at the same seed", "minus {{}}")
        named = facet.title("validation loss, differences that are compared, at the same seed")
        panel.set(title=named if ablation.comparisons else facet.compared(minus), ylabel="difference (nats)")
    for panel in made.axes:
        style.budget_axis(panel, AXIS[analysis.at])
    facets.name_lines(made, found, ends)
    marks = "line: mean, band: smallest to largest"
    marks += f"; {KINDS}; differences at the same seed" if len(found) > 1 else ""
    style.save(made, path, style.caption(analysis, "finished", marks=marks))
    return None


def _loss_curves(analysis: Analysis, panel: Axes, facet: facets.Facet) -> tuple[Ends, list[float], list[Place]]:
    """Draw them; returns the ends of the lines, the heights to show, and where diverged cells stopped."""
    ends: Ends = {}
    heights: list[float] = []
    stopped: list[Place] = []
    at = analysis.at
    for variant, hue in facet.hues.items():
        finished = analysis.ablation.of(variant, "finished")
        train = [_smooth(_at(cell, cell.series("train/loss"), at)) for cell in finished]
        train = _aligned([line for line in train if len(line)])
        thin = style.curve(panel, train, hue, linewidth=0.8, alpha=0.5)
        validation = _aligned([line for cell in finished if len(line := _at(cell, cell.validation(), at))])
        mean = style.curve(panel, validation, hue, marker="o")
        if len(mean):
            ends[variant] = (float(mean.iloc[-1]), hue)
            heights += [*mean, *thin.iloc[len(thin) // 10 :]]  # the first fall would flatten the rest
        for cell in analysis.ablation.of(variant, "diverged"):
            if end := _diverging(panel, _smooth(_at(cell, cell.series("train/loss"), at)), hue):
                stopped.append((*end, hue))
                ends.setdefault(variant, (end[1], hue))
    return ends, heights, stopped


def gain_by_depth(analysis: Analysis, path: Path) -> str | None:
    """Composite gain of the first k sublayers at the last measurement, against k."""
    title = "composite signal gain by depth, last measurement"
    return _gains(analysis, path, _depth, "sublayers composed (depth)", title, stops=False)


def gain_by_step(analysis: Analysis, path: Path) -> str | None:
    """Composite gain of the whole trunk over training."""

    def series(cell: Cell, direction: str) -> pd.Series:
        return cell.series(GAIN + direction).dropna()

    return _gains(analysis, path, series, AXIS["steps"], "composite signal gain over training", stops=True)


def _gains(
    analysis: Analysis, path: Path, series: Callable[[Cell, str], pd.Series], along: str, title: str, stops: bool
) -> str | None:
    """Panels of forward and backward gain, `series(cell, direction)`; whether a diverged cell's line stops early."""
    lines = {
        direction: {
            variant: [
                (line, stops and cell.status == "diverged")
                for cell in analysis.ablation.of(variant, "finished", "diverged")
                if len(line := series(cell, direction))
            ]
            for variant in analysis.ablation.variants
        }
        for direction in ("forward", "backward")
    }
    if not any(of for by_variant in lines.values() for of in by_variant.values()):
        return "no signal gain was measured"
    if not analysis.mixes:
        return "every gain is 1, for no topology here mixes streams"
    found = facets.facets(analysis)
    made, rows = facets.panels(found, 2, f"{analysis.ablation.name}: {title}", width=4.9, height=3.6)
    ends, stopped = {}, {}
    means = {"forward": "max |row sum|", "backward": "max |column sum|"}
    for row, (direction, by_variant) in zip(rows, lines.items(), strict=True):
        values = [v for of in by_variant.values() for line, _ in of for v in line if math.isfinite(v)]
        for panel, facet in zip(row, found, strict=True):
            ends[panel], stopped[panel] = _gain_curves(panel, facet, {v: by_variant[v] for v in facet.lines})
            whole = f"{direction}: {means[direction]}, mean over probe tokens"
            panel.set(title=facet.title(whole, f"{{}}: {direction}"), ylabel="gain (log scale)")
            style.log_gain(panel, values)
            _crosses(panel, stopped[panel])
            style.budget_axis(panel, along)
    facets.name_lines(made, found, ends)
    marks = "line: mean, band: smallest to largest"
    if len(found) > 1:
        marks += f"; {', '.join(f'{d}: {mean}' for d, mean in means.items())}, mean over probe tokens"
    diverged = style.STOPPED if stops else " (their last measurement)"
    style.save(made, path, style.caption(analysis, "finished", "diverged", marks=marks, diverged=diverged))
    return None


def _gain_curves(
    panel: Axes, facet: facets.Facet, lines: dict[str, list[tuple[pd.Series, bool]]]
) -> tuple[Ends, list[Place]]:
    """Draw lines, each with whether it stops early; returns where they end, and where those that stopped do."""
    ends, places = {}, []
    for variant, of in lines.items():
        hue = facet.hues[variant]
        mean = style.curve(panel, [line for line, stops in of if not stops], hue)
        stopped = [end for line, stops in of if stops and (end := _diverging(panel, line, hue))]
        places += [(*end, hue) for end in stopped]
        if len(mean) or stopped:
            ends[variant] = (float(mean.iloc[-1]) if len(mean) else stopped[-1][1], hue)
    return ends, places


def cost(analysis: Analysis, path: Path) -> str | None:
    """Step time over the reference's against validation loss, each variant's seeds as a cross of their spread."""
    ablation = analysis.ablation
    found = facets.facets(analysis)
    bases = [analysis.median(facet.reference, "step_ms") if facet.reference else math.nan for facet in found]
    if all(map(math.isnan, bases)):
        return f"no step time of the baseline {ablation.baseline} was measured"
    if analysis.unsteady > STEADY:
        return f"step times of cells that cost the same differ by a factor of up to {analysis.unsteady:.1f}"
    many = len(ablation.variants) > len(style.COLOURS)
    shape = {"width": 9.0, "height": 6.0} if many else {"width": 6.2, "height": 4.0}
    made, (panels,) = facets.panels(found, 1, f"{ablation.name}: cost against loss", **shape)
    ends, labels = {}, {}
    for panel, facet, base in zip(panels, found, bases, strict=True):
        labels[panel] = _points(analysis, panel, facet, base, memory=not many)
        ends[panel] = {variant: (y, hue) for variant, (_, y, _, hue) in labels[panel][0].items()}
        panel.set(
            xlabel=facet.compared("step time over {}'s" + facet.title(f" (median {base:.3g} ms)", "")),
            ylabel="validation loss (nats)",
            title=facet.title(f"validation loss at {analysis.budget_text}"),
        )
        panel.margins(0.14, 0.12)
    if not any(ends.values()):
        return "no finished cell has both a step time and a loss"
    if sum(map(len, ends.values())) < 2:
        return "one variant alone has nothing to be compared with"
    if len(found) == 1:
        places, drawn = labels[panels[0]]
        style.label_points(panels[0], list(places.values()), drawn)
    else:
        facets.name_lines(made, found, ends)
        for panel in panels:
            panel.set_xlabel(panel.get_xlabel(), fontsize=7.5)
    taken = "; times were taken beside other cells" if analysis.shared else ""
    at = f"; loss at {analysis.budget_text}" if len(found) > 1 else ""
    memory = "" if many else ", MB: peak memory"
    marks = f"large dot: mean, cross: smallest to largest, small dots: seeds{memory}{at}{taken}"
    style.save(made, path, style.caption(analysis, "finished", marks=marks, diverged=", not shown"))
    return None


def _points(
    analysis: Analysis, panel: Axes, facet: facets.Facet, reference: float, memory: bool
) -> tuple[dict[str, tuple[float, float, str, str]], list[Bbox]]:
    """Draw the crosses; returns where each is, its label and colour, and boxes that no label may cover."""
    places, drawn = {}, []
    for variant, hue in facet.hues.items():
        of = analysis.losses.get(variant, {})
        cells = [cell for cell in analysis.ablation.of(variant, "finished") if cell.seed in of]
        ratios, losses = [cell.value("step_ms") / reference for cell in cells], [of[cell.seed] for cell in cells]
        if not cells or not np.isfinite(ratios).all():
            continue
        x, y = float(np.mean(ratios)), float(np.mean(losses))
        spread = [[[x - min(ratios)], [max(ratios) - x]], [[y - min(losses)], [max(losses) - y]]]
        panel.errorbar(x, y, xerr=spread[0], yerr=spread[1], color=hue, marker="o", markersize=6, capsize=2)
        panel.plot(ratios, losses, ".", color=hue, markersize=4, alpha=0.6)
        megabytes = analysis.median(variant, "peak_memory_mb")
        beside = f"\n{megabytes:,.0f} MB" if memory and math.isfinite(megabytes) else ""
        places[variant] = (x, y, facet.lines[variant] + beside, hue)
        drawn += [Bbox([[min(ratios), y], [max(ratios), y]]), Bbox([[x, min(losses)], [x, max(losses)]])]
        drawn += [Bbox([[r, o], [r, o]]) for r, o in zip(ratios, losses, strict=True)]
    return places, drawn


def _depth(cell: Cell, direction: str) -> pd.Series:
    """Composite gain by number of sublayers composed, at the cell's last measurement."""
    pattern = re.compile(rf"signal_gain/depth_(\d+)/{direction}")
    series = {int(m[1]) + 1: s for name, s in cell.metrics.items() if (m := pattern.fullmatch(name)) and len(s)}
    last = max((s.index[-1] for s in series.values()), default=0)
    return pd.Series({k: float(s.loc[last]) for k, s in sorted(series.items()) if last in s.index}, dtype=float)


def _diverging(panel: Axes, line: pd.Series, colour: str) -> tuple[float, float] | None:
    """A dashed line; returns where it ends, for its cross."""
    line = line.replace([math.inf, -math.inf], math.nan).dropna()
    if line.empty:
        return None
    panel.plot(line.index, line, "--", color=colour, linewidth=1)
    return float(line.index[-1]), float(line.iloc[-1])


def _crosses(panel: Axes, places: Sequence[tuple[float, float, str]]) -> None:
    """Where diverged cells stopped, at the panel's edge where that is beyond it."""
    low, high = panel.get_ylim()
    for x, y, colour in places:
        panel.plot(x, min(max(y, low), high), "x", color=colour, markersize=7, clip_on=False)
    panel.set_ylim(low, high)


def _at(cell: Cell, series: pd.Series, at: str) -> pd.Series:
    """The series against the chosen budget instead of steps; empty where that was not measured."""
    index = np.array([cell.budget(at, step) for step in series.index], float)
    return pd.Series(series.to_numpy(), index=index) if np.isfinite(index).all() else pd.Series(dtype=float)


def _aligned(lines: Sequence[pd.Series]) -> list[pd.Series]:
    """Series at common places: their own where equal, else interpolated where all overlap (equal time differs)."""
    if len(lines) < 2 or all(line.index.equals(lines[0].index) for line in lines[1:]):
        return list(lines)
    low, high = max(line.index[0] for line in lines), min(line.index[-1] for line in lines)
    places = sorted({float(x) for line in lines for x in line.index if low <= x <= high})
    return [pd.Series(np.interp(places, line.index, line), index=places) for line in lines]


def _paired_curves(analysis: Analysis, variant: str, reference: str) -> list[pd.Series]:
    """Validation loss minus the reference's at the same seed, at the places that both reached."""
    ablation, differences = analysis.ablation, []
    base = {cell.seed: _at(cell, cell.validation(), analysis.at) for cell in ablation.of(reference, "finished")}
    for cell in ablation.of(variant, "finished"):
        one, other = _at(cell, cell.validation(), analysis.at), base.get(cell.seed, pd.Series(dtype=float))
        if len(one) and len(other):
            one, other = _aligned([one, other])
            differences.append((one - other).dropna())
    return _aligned([line for line in differences if len(line)])


def _smooth(series: pd.Series) -> pd.Series:
    """Running mean over a fortieth of the points."""
    return series.rolling(max(1, len(series) // 40), center=True, min_periods=1).mean()
