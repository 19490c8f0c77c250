"""The signal gain of an ablation in tables: where it ends, and when it passes 10, 100 and 1000."""

from collections.abc import Sequence

import pandas as pd

from recipes.reports.analysis import Analysis
from recipes.reports.cells import GAIN, Cell
from recipes.reports.format import NONE, count, extent, gain, listed, significant, table

THRESHOLDS = (10, 100, 1000)


def section(analysis: Analysis) -> list[str]:
    """The heading and the tables; nothing where no topology mixes streams."""
    if not analysis.mixes:
        return []
    return ["## Signal gain", _gains(analysis), *_passing(analysis)]


def passed(cells: Sequence[Cell], threshold: float) -> list[float]:
    """The steps at which the composite forward gain of each cell was first measured at a threshold or above."""
    series = [_series(cell) for cell in cells]
    return [float(above.index[0]) for one in series if len(above := one[one >= threshold])]


def _series(cell: Cell) -> pd.Series:
    return cell.series(GAIN + "forward").dropna()


def clause(analysis: Analysis) -> list[str]:
    """Which variants pass each threshold at some seed, for the answer; nothing where none passes the first."""
    by_threshold = {t: [v for v in _measured(analysis) if passed(_ended(analysis, v), t)] for t in THRESHOLDS}
    said = [f"{t:,} in {_which(analysis, variants)}" for t, variants in by_threshold.items() if variants]
    return [f"the forward gain passes, at some seed at least, {', '.join(said)}"] if said else []


def _which(analysis: Analysis, variants: Sequence[str]) -> str:
    """The variants by name, or how many of each level of the first axis there are."""
    if len(analysis.ablation.axes) < 2 or len(variants) <= 2:
        return listed(list(variants))
    axis = next(iter(analysis.ablation.axes))
    levels = {v: analysis.ablation.levels(v).get(axis, v) for v in _measured(analysis)}
    parts = []
    for level in dict.fromkeys(levels.values()):
        every = [v for v in levels if levels[v] == level]
        if some := [v for v in variants if levels[v] == level]:
            parts.append(f"{len(some)} of {count(len(every), 'variant')} with {level}")
    return listed(parts)


def _measured(analysis: Analysis) -> list[str]:
    return [v for v in analysis.ablation.variants if analysis.gains(v, "gain_forward")]


def _ended(analysis: Analysis, variant: str) -> list[Cell]:
    return analysis.ablation.of(variant, "finished", "diverged")


def _gains(analysis: Analysis) -> str:
    measured = _measured(analysis)
    columns = {
        "forward, end": "gain_forward", "forward, largest": "gain_forward_max",
        "backward, end": "gain_backward", "backward, largest": "gain_backward_max",
    }  # fmt: skip
    ended = {variant: _ended(analysis, variant) for variant in measured}
    extra = {"forward, any token": "forward_max", "backward, any token": "backward_max"}
    errors = {v: _last(cells, GAIN + "log_column_error") for v, cells in ended.items()}
    rows = []
    for variant in measured:
        row = [variant, str(len(ended[variant]))]
        row += [extent(analysis.gains(variant, name), gain) for name in columns.values()]
        for name in extra.values():
            largest = [float(s.max()) for cell in ended[variant] if len(s := cell.series(GAIN + name).dropna())]
            row.append(gain(max(largest)) if largest else NONE)
        rows.append(row + ([extent(errors[variant], significant)] if any(errors.values()) else []))
    header = ["variant", "n", *columns, *extra, *(["max abs log column sum"] if any(errors.values()) else [])]
    text = (
        "Gain of the composite of all sublayers' mixing matrices, mean over the tokens of the probe batch: forward is "
        "the largest absolute row sum, backward the largest absolute column sum; mean [smallest to largest] over the "
        "cells. `largest` is over training, `any token` the largest that one token had. A topology without mixing has "
        "gain 1."
    )
    if any(analysis.ablation.of(v, "diverged") for v in measured):
        text += " A diverged cell counts up to where it stopped."
    return f"{table(header, rows)}\n\n{text}"


def _passing(analysis: Analysis) -> list[str]:
    """When the forward gain of those variants that pass the first threshold at some seed passes each."""
    rows = []
    followed = {v: cells for v in _measured(analysis) if (cells := [c for c in _ended(analysis, v) if len(_series(c))])}
    for variant, cells in followed.items():
        steps = [passed(cells, threshold) for threshold in THRESHOLDS]
        if steps[0]:
            rows.append([variant, *(_steps(found, len(cells)) for found in steps)])
    if not followed:
        return []
    if not rows:
        return [f"No forward gain passes {THRESHOLDS[0]} where it was measured."]
    header = ["forward gain passes", *(f"{threshold:,}" for threshold in THRESHOLDS)]
    text = (
        "How many of the cells pass, and the optimizer step at which the gain was first measured there or above: "
        "mean [first to last]. It is measured every few steps (`signal_gain.every_n_steps`), and may fall again."
    )
    others = len(followed) - len(rows)
    rest = f" The forward gain of {count(others, 'other variant')} passes {THRESHOLDS[0]} nowhere." if others else ""
    return [f"{table(header, rows)}\n\n{text}{rest}"]


def _steps(found: Sequence[float], cells: int) -> str:
    where = f", step {extent(found, lambda step: f'{step:.0f}')}" if found else ""
    return f"{len(found)} of {cells}{where}"


def _last(cells: Sequence[Cell], metric: str) -> list[float]:
    series = [cell.series(metric).dropna() for cell in cells]
    return [float(one.iloc[-1]) for one in series if len(one)]
