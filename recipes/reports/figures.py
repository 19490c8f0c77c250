"""The pictures of a report: loss, gain, sweeps, cost against loss; measured numbers alone."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from recipes.reports import queries, style, sweep, tokens
from recipes.reports.analysis import STEADY, Analysis
from recipes.reports.cells import GAIN, Cell

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
    """Training and validation loss, and beside them the validation loss minus the baseline's, seed by seed."""
    ablation, at = analysis.ablation, analysis.at
    hues = style.colours(ablation.variants, ablation.baseline)
    paired = {v: lines for v in ablation.variants if v != ablation.baseline and (lines := _paired_curves(analysis, v))}
    shape = {"width": 5.2 if paired else 6.4, "height": max(3.6, 1.2 + 0.17 * len(ablation.variants))}
    made, panels = style.figure(2 if paired else 1, f"{ablation.name}: loss", **shape)
    ends, heights, stopped = {}, [], []
    for variant in ablation.variants:
        finished = ablation.of(variant, "finished")
        train = [_smooth(_at(cell, cell.series("train/loss"), at)) for cell in finished]
        train = _aligned([line for line in train if len(line)])
        thin = style.curve(panels[0], train, hues[variant], linewidth=0.8, alpha=0.5)
        validation = _aligned([line for cell in finished if len(line := _at(cell, cell.validation(), at))])
        mean = style.curve(panels[0], validation, hues[variant], marker="o")
        if len(mean):
            ends[variant] = (float(mean.iloc[-1]), hues[variant])
            heights += [*mean, *thin.iloc[len(thin) // 10 :]]  # the first fall would flatten the rest
        for cell in ablation.of(variant, "diverged"):
            if end := _diverging(panels[0], _smooth(_at(cell, cell.series("train/loss"), at)), hues[variant]):
                stopped.append((*end, hues[variant]))
                ends.setdefault(variant, (end[1], hues[variant]))
    if not ends:
        return "no loss was measured"
    if heights:
        low, high = min(heights), max(heights)
        panels[0].set_ylim(low - 0.06 * (high - low or 1), high + 0.06 * (high - low or 1))
    _crosses(panels[0], stopped)
    panels[0].set(ylabel="cross-entropy (nats per token)", title="thick: validation, thin: training (smoothed)")
    for variant, lines in paired.items():
        style.curve(panels[1], lines, hues[variant], marker="o" if at == "steps" else "")
    for panel in panels:
        style.budget_axis(panel, AXIS[at])
    labels = {panels[0]: ends}
    if paired:
        panels[1].axhline(0, color=style.BASELINE, linewidth=1)
        panels[1].set(title=f"validation loss minus {ablation.baseline}'s at the same seed", ylabel="difference (nats)")
        last = {v: (float(pd.concat(lines, axis=1).mean(axis=1).iloc[-1]), hues[v]) for v, lines in paired.items()}
        labels[panels[1]] = last | {ablation.baseline: (0.0, style.BASELINE)}
    style.label_ends(labels)
    style.save(made, path, style.caption(analysis, "finished"))
    return None


def gain_by_depth(analysis: Analysis, path: Path) -> str | None:
    """Composite gain of the first k sublayers at the last measurement, against k."""
    lines = {
        direction: {
            variant: [line for cell in cells if len(line := _depth(cell, direction))]
            for variant in analysis.ablation.variants
            if (cells := analysis.ablation.of(variant, "finished", "diverged"))
        }
        for direction in ("forward", "backward")
    }
    title = "composite signal gain by depth, last measurement"
    return _gains(analysis, path, lines, "sublayers composed (depth)", title, " (their last measurement)")


def gain_by_step(analysis: Analysis, path: Path) -> str | None:
    """Composite gain of the whole trunk over training."""
    lines = {
        direction: {
            variant: [line for cell in cells if len(line := cell.series(GAIN + direction).dropna())]
            for variant in analysis.ablation.variants
            if (cells := analysis.ablation.of(variant, "finished", "diverged"))
        }
        for direction in ("forward", "backward")
    }
    return _gains(analysis, path, lines, AXIS["steps"], "composite signal gain over training", ", dashed to the cross")


def _gains(
    analysis: Analysis, path: Path, lines: dict[str, dict[str, list[pd.Series]]], along: str, title: str, diverged: str
) -> str | None:
    if not any(series for by_variant in lines.values() for series in by_variant.values()):
        return "no signal gain was measured"
    if not analysis.mixes:
        return "every gain is 1, for no topology here mixes streams"
    hues = style.colours(analysis.ablation.variants, analysis.ablation.baseline)
    made, panels = style.figure(2, f"{analysis.ablation.name}: {title}")
    labels = {}
    means = {"forward": "max |row sum|", "backward": "max |column sum|"}
    for panel, (direction, by_variant) in zip(panels, lines.items(), strict=True):
        ends, values, stopped = {}, [], []
        for variant, series in by_variant.items():
            longest = max((line.index[-1] for line in series), default=0)
            whole = [line for line in series if line.index[-1] == longest]  # diverged cells end earlier
            mean = style.curve(panel, whole, hues[variant])
            for line in series:
                if line.index[-1] < longest and (end := _diverging(panel, line, hues[variant])):
                    stopped.append((*end, hues[variant]))
                values += [v for v in line if math.isfinite(v)]
            if len(mean):
                ends[variant] = (float(mean.iloc[-1]), hues[variant])
        style.log_gain(panel, values)
        _crosses(panel, stopped)
        panel.set(title=f"{direction}: {means[direction]}, mean over probe tokens", ylabel="gain (log scale)")
        style.budget_axis(panel, along)
        labels[panel] = ends
    style.label_ends(labels)
    style.save(made, path, style.caption(analysis, "finished", "diverged", diverged=diverged))
    return None


def cost(analysis: Analysis, path: Path) -> str | None:
    """Step time over the baseline's against validation loss, each variant's seeds as a cross of their spread."""
    ablation = analysis.ablation
    base = analysis.median(ablation.baseline, "step_ms")
    if math.isnan(base):
        return f"no step time of the baseline {ablation.baseline} was measured"
    if analysis.unsteady > STEADY:
        return f"step times of cells that cost the same differ by a factor of up to {analysis.unsteady:.1f}"
    many = len(ablation.variants) > len(style.COLOURS)
    hues = style.colours(ablation.variants, ablation.baseline)
    shape = {"width": 9.0, "height": 6.0} if many else {"width": 6.2, "height": 4.0}
    made, (panel,) = style.figure(1, f"{ablation.name}: cost against loss", **shape)
    places, drawn = [], []
    for variant in ablation.variants:
        cells = [c for c in ablation.of(variant, "finished") if c.seed in analysis.losses.get(variant, {})]
        ratios = [cell.value("step_ms") / base for cell in cells]
        losses = [analysis.losses[variant][cell.seed] for cell in cells]
        if not cells or not np.isfinite(ratios).all():
            continue
        x, y = float(np.mean(ratios)), float(np.mean(losses))
        spread = [[[x - min(ratios)], [max(ratios) - x]], [[y - min(losses)], [max(losses) - y]]]
        panel.errorbar(x, y, xerr=spread[0], yerr=spread[1], color=hues[variant], marker="o", markersize=6, capsize=2)
        panel.plot(ratios, losses, ".", color=hues[variant], markersize=4, alpha=0.6)
        memory = analysis.median(variant, "peak_memory_mb")
        beside = f"\n{memory:,.0f} MB" if math.isfinite(memory) and not many else ""
        places.append((x, y, variant + beside, hues[variant]))
        drawn += [Bbox([[min(ratios), y], [max(ratios), y]]), Bbox([[x, min(losses)], [x, max(losses)]])]
        drawn += [Bbox([[r, o], [r, o]]) for r, o in zip(ratios, losses, strict=True)]
    if not places:
        return "no finished cell has both a step time and a loss"
    if len(places) < 2:
        return "one variant alone has nothing to be compared with"
    panel.margins(0.14, 0.12)
    style.label_points(panel, places, drawn)
    panel.set(xlabel=f"step time over {ablation.baseline}'s (median {base:.3g} ms)", ylabel="validation loss (nats)")
    panel.set_title(f"validation loss at {analysis.budget_text}")
    taken = "; times were taken beside other cells" if analysis.shared else ""
    marks = (
        f"large dot: mean, cross: smallest to largest, small dots: seeds{'' if many else ', MB: peak memory'}{taken}"
    )
    style.save(made, path, style.caption(analysis, "finished", marks=marks, diverged=", not shown"))
    return None


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


def _paired_curves(analysis: Analysis, variant: str) -> list[pd.Series]:
    """Validation loss minus the baseline's at the same seed, at the places that both reached."""
    ablation, differences = analysis.ablation, []
    base = {cell.seed: _at(cell, cell.validation(), analysis.at) for cell in ablation.of(ablation.baseline, "finished")}
    for cell in ablation.of(variant, "finished"):
        one, other = _at(cell, cell.validation(), analysis.at), base.get(cell.seed, pd.Series(dtype=float))
        if len(one) and len(other):
            one, other = _aligned([one, other])
            differences.append((one - other).dropna())
    return _aligned([line for line in differences if len(line)])


def _smooth(series: pd.Series) -> pd.Series:
    """Running mean over a fortieth of the points."""
    return series.rolling(max(1, len(series) // 40), center=True, min_periods=1).mean()
