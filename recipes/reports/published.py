"""What others published of an ablation's variants, beside what its cells measured, agreeing or not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from recipes.ablation.published import MEASURES, Number
from recipes.reports.analysis import Analysis
from recipes.reports.format import count, extent, gain, listed, p_column, significant, table
from recipes.reports.statistics import ALPHA, holm_adjusted

AGREES, OPEN, DISAGREES, UNTESTED = "agrees", "not told apart", "disagrees", "not tested"
RULE = (
    "A published number agrees if our mean lies within the published range, or rounds to the published number. Else it "
    "disagrees if a test rejects, at .05 after Holm, that ours come from where it comes from, and is not told apart "
    "otherwise: Welch's t-test against a published mean and deviation; against a range, whether our mean is its nearer "
    "end; against a single run, whether that run is one more of ours (prediction interval). Gains are tested as "
    "logarithms. With one run here nothing is tested."
)


@dataclass(frozen=True)
class Comparison:
    """A published number and ours: whether ours lie within it, what they differ in, and the p of the difference."""

    number: Number
    ours: list[float]
    within: bool
    apart: str
    p: float
    adjusted: float = math.nan

    @property
    def verdict(self) -> str:
        """One of the four words, by `RULE`."""
        if not self.number.n and self.within and len(self.ours) > 1:
            return AGREES
        if math.isnan(self.p):
            return UNTESTED
        return DISAGREES if self.adjusted < ALPHA else OPEN


def compare(number: Number, ours: Sequence[float]) -> Comparison:
    """One comparison, whose p is NaN where nothing can be tested, and 0 for a gain without bound."""
    values = [value for value in ours if not math.isnan(value)]
    if not values:
        return Comparison(number, values, False, "not measured", math.nan)
    if not np.isfinite(values).all():
        return Comparison(number, values, False, "ours are not finite", 0.0)
    mean = sum(values) / len(values)
    within = number.low <= mean <= number.high
    ratio = number.measure.startswith("gain_") and min(*values, number.low) > 0
    middle = (number.low + number.high) / 2 if number.n or number.single else min(max(mean, number.low), number.high)
    apart = (
        "within it"
        if within and not number.n
        else f"{mean / middle:.3g} times it"
        if ratio
        else f"{mean - middle:+.3g}"
    )
    return Comparison(number, values, within, apart, _p(number, values, ratio))


def _p(number: Number, ours: Sequence[float], ratio: bool) -> float:
    if len(ours) < 2 or float(np.std(ours)) == 0:
        return math.nan
    if number.n:
        mean, sd = float(np.mean(ours)), float(np.std(ours, ddof=1))
        test = stats.ttest_ind_from_stats(mean, sd, len(ours), number.mean, number.sd, number.n, equal_var=False)
        return float(test.pvalue)
    x, low, high = (np.log(v) if ratio else np.asarray(v, float) for v in (ours, number.low, number.high))
    mean, error = x.mean(), x.std(ddof=1) * math.sqrt(1 / len(x) + number.single)
    return float(2 * stats.t.sf(max(low - mean, mean - high, 0.0) / error, len(x) - 1))


def comparisons(analysis: Analysis) -> list[Comparison]:
    """All published numbers against ours, p corrected for how many are tested (Holm)."""
    if analysis.ablation.published is None:
        return []
    found = []
    for number in analysis.ablation.published.numbers:
        if number.measure == "val_loss" and analysis.untrained(number.variant):
            found.append(Comparison(number, [], False, "ours are not trained", math.nan))
        else:
            found.append(compare(number, analysis.measured(number.variant, number.measure)))
    adjusted = holm_adjusted([one.p for one in found])
    return [replace(one, adjusted=p) for one, p in zip(found, adjusted, strict=True)]


def section(analysis: Analysis) -> list[str]:
    """A heading, the table and what was compared; nothing where the file has no published numbers."""
    found = comparisons(analysis)
    if not found:
        return []
    rows = []
    for one in found:
        show = gain if one.number.measure.startswith("gain_") else significant
        ours = [extent(one.ours, show), str(len(one.ours)), one.apart, p_column(one.p), p_column(one.adjusted)]
        rows.append([one.number.variant, MEASURES[one.number.measure], one.number.text, *ours, one.verdict])
    header = ["variant", "of", "published", "here", "n", "ours against it", "p", "p (Holm)", "the published number"]
    here = f" Here: {analysis.budget_text}." if analysis.losses else ""
    source = analysis.ablation.published.source if analysis.ablation.published else ""
    return ["## Published and here", table(header, rows), f"Published: {source}.{here} {RULE}"]


def clause(analysis: Analysis) -> list[str]:
    """How many of the published numbers agree, for the answer."""
    verdicts = [one.verdict for one in comparisons(analysis)]
    counted = {said: verdicts.count(said) for said in (AGREES, OPEN, DISAGREES, UNTESTED)}
    verbs = {AGREES: ("agrees", "agree"), DISAGREES: ("disagrees", "disagree"), OPEN: ("is {}", "are {}")}
    verbs |= {UNTESTED: verbs[OPEN]}
    parts = [f"{n} {verbs[said][n > 1].format(said)}" for said, n in counted.items() if n]
    return [f"of {count(len(verdicts), 'published number')} {listed(parts)}"] if verdicts else []
