"""What others published of an ablation's variants, beside what its cells measured, agreeing or not."""

import math

from scipy import stats

from recipes.ablation.published import MEASURES, Figure
from recipes.reports.analysis import Analysis
from recipes.reports.format import NONE, count, extent, gain, listed, p_value, significant, table
from recipes.reports.statistics import ALPHA, mean_sd, t_interval

AGREES, OPEN, DISAGREES, ABSENT = "agrees", "not told apart", "disagrees", "not measured"
RULE = (
    "Where the published runs' mean and deviation are known, a number disagrees if Welch's test rejects equal means at "
    ".05, and is not told apart from ours otherwise. Else it agrees if our mean lies within what was published, and "
    "disagrees if our 95 % t interval does not reach it. A number stands for what rounds to it."
)


def values(analysis: Analysis, figure: Figure) -> list[float]:
    """The same number of the variant's cells: losses at the compared budget, gains also of cells that diverged."""
    if figure.measure == "val_loss":
        return list(analysis.losses.get(figure.variant, {}).values())
    if figure.measure.startswith("gain_"):
        return analysis.gains(figure.variant, figure.measure)
    return analysis.values(figure.variant, figure.measure)


def verdict(figure: Figure, ours: list[float]) -> tuple[str, str]:
    """Whether a published number agrees with ours, by `RULE`, and what the two differ in."""
    mean, sd = mean_sd(ours)
    if math.isnan(mean):
        return ABSENT, NONE
    if figure.n and len(ours) > 1 and sd > 0:
        test = stats.ttest_ind_from_stats(mean, sd, len(ours), figure.mean, figure.sd, figure.n, equal_var=False)
        p = float(test.pvalue)
        return (DISAGREES if p < ALPHA else OPEN), f"{mean - figure.mean:+.3g}, {p_value(p)} (Welch)"
    if figure.low <= mean <= figure.high:
        return AGREES, "within it"
    edge = figure.high if mean > figure.high else figure.low
    away = f"{mean / edge:.3g} times it" if edge > 0 and figure.measure.startswith("gain_") else f"{mean - edge:+.3g}"
    if len(ours) < 2:
        return DISAGREES, f"{away} (n = 1, no test)"
    low, high = t_interval(ours)
    reached = low <= figure.high and high >= figure.low
    return (OPEN if reached else DISAGREES), f"{away}, our 95 % interval {gain(low)} to {gain(high)}"


def section(analysis: Analysis) -> list[str]:
    """A heading, the table and what was compared; nothing where the file has no published numbers."""
    published = analysis.ablation.published
    if published is None:
        return []
    rows = []
    for figure in published.figures:
        ours = values(analysis, figure)
        said, why = verdict(figure, ours)
        show = gain if figure.measure.startswith("gain_") else significant
        row = [figure.variant, MEASURES[figure.measure], figure.text, extent(ours, show), str(len(ours)), said, why]
        rows.append(row)
    header = ["variant", "of", "published", "here", "n", "published number", "ours against it"]
    here = f" Here: {analysis.budget_text}." if analysis.losses else ""
    return ["## Published and here", table(header, rows), f"Published: {published.source}.{here} {RULE}"]


def clause(analysis: Analysis) -> list[str]:
    """How many of the published numbers agree, for the answer."""
    published = analysis.ablation.published
    if published is None:
        return []
    verdicts = [verdict(figure, values(analysis, figure))[0] for figure in published.figures]
    plural = {AGREES: "agree", DISAGREES: "disagree"}
    counted = {said: verdicts.count(said) for said in (AGREES, OPEN, DISAGREES, ABSENT)}
    parts = [f"{n} {said if n == 1 else plural.get(said, said)}" for said, n in counted.items() if n]
    return [f"of {count(len(verdicts), 'published number')} {listed(parts)}"]
