"""The answer to an ablation's question: one sentence that says no more than the numbers do."""

import math
from collections.abc import Mapping, Sequence

from recipes.reports import gains, published
from recipes.reports.analysis import MATCHED, Analysis
from recipes.reports.format import count, extent, gain, listed, loss, p_value, percent, signed
from recipes.reports.statistics import Difference, t_interval

FEW = 4  # beyond so many, ranges are said instead of each variant


def answer(analysis: Analysis) -> str:
    """The sentence: accuracies, composite gains, what diverged or did not train, and what the paired test supports."""
    cells = analysis.ablation.cells
    ended = [cell for cell in cells if cell.status in ("finished", "diverged")]
    if not ended:
        failed = sum(cell.status == "failed" for cell in cells)
        return f"No cell has finished ({failed} of {_planned(analysis)} failed), so nothing is concluded."
    clauses = [*_accuracy(analysis), *_gain(analysis), *gains.clause(analysis), *published.clause(analysis)]
    clauses += [*_diverged(analysis), *_absent(analysis), *_loss(analysis)]
    finished = sum(cell.status == "finished" for cell in cells)
    over = (
        f"Over {count(len({cell.seed for cell in ended}), 'seed')} ({finished} of {_planned(analysis)} cells finished)"
    )
    return f"{over}: {'; '.join(clauses) if clauses else 'no loss and no signal gain was measured'}."


def _planned(analysis: Analysis) -> int:
    return len(analysis.ablation.cells) + len(analysis.ablation.missing)


def _gain(analysis: Analysis) -> list[str]:
    measured = {v: values for v in analysis.ablation.variants if (values := analysis.gains(v, "gain_forward"))}
    # without mixing anywhere the gain is 1 by definition: where something else was asked, that answers nothing
    if not measured or (not analysis.mixes and any(analysis.accuracies(variant) for variant in measured)):
        return []
    if len(measured) > FEW:
        backward = {v: values for v in measured if (values := analysis.gains(v, "gain_backward"))}
        if analysis.mixes and len(analysis.ablation.axes) > 1:
            shown = f"the composite forward gain ends at {_by_first_axis(analysis, measured)}"
            shown += f", by variant {_range(measured)}"
            return [shown + (f"; the backward gain at {_by_first_axis(analysis, backward)}" if backward else "")]
        text = f"the composite forward gain ends {_range(measured)}"
        return [text + (f", the backward gain {_range(backward)}" if backward else "")]
    parts = []
    for variant, values in measured.items():
        text = f"{extent(values, gain)} in {variant}"
        asides = []
        if largest := analysis.gains(variant, "gain_forward_max"):
            asides.append(f"largest over training {gain(max(largest))}")
        if backward := analysis.gains(variant, "gain_backward"):
            asides.append(f"backward {extent(backward, gain)}")
        parts.append(text + (f" ({', '.join(asides)})" if asides else ""))
    return [f"the composite forward gain ends at {listed(parts)}"]


def _by_first_axis(analysis: Analysis, measured: Mapping[str, Sequence[float]]) -> str:
    """The smallest and largest gain at each level of the first axis, whatever the others: no mean of unlike models."""
    axis, levels = next(iter(analysis.ablation.axes)), {}
    for variant, values in measured.items():
        levels.setdefault(analysis.ablation.levels(variant).get(axis, variant), []).extend(values)
    ends = {level: [gain(min(values)), gain(max(values))] for level, values in levels.items()}
    return listed([f"{' to '.join(dict.fromkeys(shown))} in {level}" for level, shown in ends.items()])


def _range(measured: dict[str, list[float]]) -> str:
    """The variants with the lowest and the highest mean gain."""
    order = sorted(measured, key=lambda variant: sum(measured[variant]) / len(measured[variant]))
    low, high = (extent(measured[variant], gain) for variant in (order[0], order[-1]))
    same = f"at {low} in every variant"
    return same if low == high else f"between {low} ({order[0]}) and {high} ({order[-1]})"


def _diverged(analysis: Analysis) -> list[str]:
    clauses = []
    for variant in analysis.ablation.variants:
        diverged, every = analysis.ablation.of(variant, "diverged"), analysis.ablation.of(variant)
        if diverged:
            steps = [cell.steps for cell in diverged if not math.isnan(cell.steps)]
            first = f", first at step {min(steps):.0f}" if steps else ""
            clauses.append(f"{variant} diverged at {len(diverged)} of {count(len(every), 'seed')}{first}")
    return clauses


def _absent(analysis: Analysis) -> list[str]:
    clauses = []
    for variant in analysis.ablation.variants:
        finished = analysis.ablation.of(variant, "finished", "diverged")
        if not finished:
            clauses.append(f"nothing is concluded about {variant}, of which no cell finished")
        elif seeds := analysis.untrained(variant):
            whole = len(seeds) == len(analysis.ablation.of(variant, "finished"))
            where = "" if whole else f" at {count(len(seeds), 'seed')}"
            clauses.append(f"{variant} is not trained{where} (still at its prior), so its loss is not compared")
    return clauses


def _accuracy(analysis: Analysis) -> list[str]:
    variants = [v for v in analysis.ablation.variants if analysis.accuracies(v) or analysis.order_accuracies(v)]
    ordered = all(analysis.order_accuracies(v) for v in variants)
    of, name = (analysis.order_accuracies, "order accuracy") if ordered else (analysis.accuracies, "token accuracy")
    if ordered and not math.isnan(analysis.blind):
        name += f" ({percent(analysis.blind)} on average without the order)"
    read = {v: of(v) for v in variants if not analysis.untrained(v)}
    if not read:
        return []
    order = sorted(read, key=lambda variant: -sum(read[variant]) / len(read[variant]))
    if len(order) <= 2 * FEW:
        said = [f"{name} ends at {listed([f'{extent(read[v], percent)} in {v}' for v in order])}"]
        return said + (_reads_the_order(analysis, read, order) if ordered else [])
    low, high = (f"{extent(read[variant], percent)} ({variant})" for variant in (order[-1], order[0]))
    return [f"{name} ends between {low} and {high}"]


def _reads_the_order(analysis: Analysis, read: Mapping[str, Sequence[float]], variants: Sequence[str]) -> list[str]:
    """Which of them have an order accuracy whose interval lies above what luck gives without the order."""
    above = [v for v in variants if t_interval(read[v])[0] > analysis.luck]
    others = [v for v in variants if v not in above]
    if math.isnan(analysis.luck) or all(len(values) < 2 for values in read.values()):
        return []
    shown = f"so {listed(above)} read{'s' * (len(above) == 1)} by the order" if above else ""
    not_shown = f"it is not shown that {listed(others)} do{'es' * (len(others) == 1)}" if others else ""
    if not above:
        not_shown = f"it is not shown that {listed(others)} read{'s' * (len(others) == 1)} by the order"
    limit = f"95 % t intervals over seeds against {percent(analysis.luck)}, one in forty readers' without the order"
    return [f"{', and '.join(filter(None, (shown, not_shown)))} ({limit})"]


def _loss(analysis: Analysis) -> list[str]:
    trained = {v: list(by.values()) for v, by in analysis.losses.items() if not analysis.untrained(v)}
    differences = [d for d in analysis.differences if d.variant in trained and d.reference in trained]
    tested = [d for d in differences if d.n > 1]
    if not trained:
        return []
    if not tested:
        shown = listed([f"{extent(values, loss)} in {v}" for v, values in list(trained.items())[:FEW]])
        shown = f"the validation loss ends at {shown}" if len(trained) <= FEW else "the validation losses stand below"
        if len(trained) == 1:
            return [f"{shown}, with no other trained variant to compare"]
        if max((d.n for d in differences), default=0) == 1:
            return [f"{_lowest(analysis, trained) or shown}, and with n = 1 no difference is tested"]
        if analysis.ablation.comparisons:
            return [f"{shown}, and no pair that is to be compared shares a finished seed, so no difference is tested"]
        if analysis.ablation.baseline not in analysis.losses:
            return [f"{shown}, and the baseline {analysis.ablation.baseline} has none, so no difference is tested"]
        return [f"{shown}, and no pair of variants shares a finished seed, so no difference is tested"]
    at = "" if analysis.at == "steps" else f" at {analysis.budget_text}"
    return [_few(tested, at) if len(tested) <= FEW else _many(tested, at), *_unequal(analysis)]


def _lowest(analysis: Analysis, trained: Mapping[str, Sequence[float]]) -> str:
    """Where on the second of two axes the loss is lowest, for each level of the first."""
    if len(analysis.ablation.axes) != 2:
        return ""
    rows, columns = analysis.ablation.axes
    best: dict[str, tuple[float, str]] = {}
    for variant, losses in trained.items():
        levels = analysis.ablation.levels(variant)
        if {rows, columns} <= levels.keys():
            found = sum(losses) / len(losses), levels[columns]
            best[levels[rows]] = min(best.get(levels[rows], found), found)
    shown = listed([f"{level} for {row} ({loss(value)})" for row, (value, level) in best.items()])
    return f"the validation loss is lowest at {columns} {shown}" if best else ""


def _few(tested: list[Difference], at: str) -> str:
    alike = [d for d in tested if not d.significant and d.p >= 0.05]
    if len(alike) < 2:
        alike = []
    said = [_difference(d) for d in tested if d not in alike]
    if alike:
        pairs = "; ".join(f"{_pair(d)}, {_chance(d)}" for d in alike)
        could = [abs(d.smallest) for d in alike]
        one = len({d.reference for d in tested}) == 1
        which = listed([d.variant for d in alike]) if one else "other pairs" if said else "any pair"
        said.append(
            f"no difference is shown for {which} ({pairs}; the smallest n = "
            f"{min(d.n for d in alike)} could have shown is {_between(could)})"
        )
    return f"on validation loss{at} {'; '.join(said)}"


def _difference(d: Difference) -> str:
    pair, p = _pair(d), _chance(d)
    if math.isnan(d.p):
        return f"{pair} at every one of n = {d.n} seeds, which leaves no spread to test with"
    could = f"the smallest difference n = {d.n} could have shown is {abs(d.smallest):.2g}"
    if d.significant:
        beyond = "" if abs(d.mean) >= d.smallest else ", more than was observed"
        return f"{d.variant} ends {'lower' if d.mean < 0 else 'higher'} ({pair}, {p}; {could}{beyond})"
    if d.p < 0.05:
        return f"{pair} ({p_value(d.p)}) does not stand after correction for the number of comparisons ({could})"
    return f"no difference is shown for {d.variant} ({pair}, {p}; {could}, and the observed one is not beyond it)"


def _between(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2g}", f"{max(values):.2g}"
    return low if low == high else f"{low} to {high}"


def _pair(d: Difference) -> str:
    return f"{d.variant} - {d.reference} = {signed(d.mean)}"


def _chance(d: Difference) -> str:
    corrected = "" if math.isnan(d.adjusted) or d.adjusted == d.p else f", {p_value(d.adjusted)} after Holm"
    return p_value(d.p) + corrected


def _many(tested: list[Difference], at: str) -> str:
    standing = [d for d in tested if d.significant]
    could = [d.smallest for d in tested if not math.isnan(d.smallest)]
    limits = f"the smallest difference n = {min(d.n for d in tested)} could have shown is " + (
        f"{min(could):.2g} to {max(could):.2g}" if could else "not known"
    )
    if not standing:
        return f"none of {len(tested)} paired loss differences{at} is significant ({limits})"
    strongest = sorted(standing, key=lambda d: -abs(d.mean))[:FEW]
    named = listed([f"{d.variant} - {d.reference} = {signed(d.mean)} ({p_value(d.adjusted)})" for d in strongest])
    which = "" if len(strongest) == len(standing) else ", the largest"
    share = f"{len(standing)} of {len(tested)} paired loss differences{at}"
    verb = "is" if len(standing) == 1 else "are"
    return f"{share} {verb} significant after Holm{which}: {named} ({limits})"


def _unequal(analysis: Analysis) -> list[str]:
    spread, first = analysis.spread("params"), analysis.spread_along_first("params")
    matched = f", along {next(iter(analysis.ablation.axes))} by at most {first:.1%}" if first <= MATCHED else ""
    return [f"the variants' parameters differ by {spread:.1%}{matched}"] if spread > MATCHED else []
