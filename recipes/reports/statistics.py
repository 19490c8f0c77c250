"""What n seeds can say about a difference: paired t-test, its interval, and the smallest effect it could have shown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy import integrate, optimize, special, stats

ALPHA = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """A variant's loss minus its reference's, paired by seed; NaN where n does not allow the number."""

    variant: str
    reference: str
    seeds: tuple[int, ...]
    mean: float
    sd: float
    interval: tuple[float, float]
    p: float
    smallest: float
    adjusted: float = math.nan

    @property
    def n(self) -> int:
        """Pairs."""
        return len(self.seeds)

    @property
    def significant(self) -> bool:
        """Whether p, adjusted for the number of comparisons where that was done, is under .05."""
        return (self.p if math.isnan(self.adjusted) else self.adjusted) < ALPHA


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; NaN where there are too few values."""
    array = np.asarray(values, float)
    return (float(array.mean()) if len(array) else math.nan), (float(array.std(ddof=1)) if len(array) > 1 else math.nan)


def t_interval(values: Sequence[float], level: float = 1 - ALPHA) -> tuple[float, float]:
    """Student's interval of the mean; NaN for fewer than two values."""
    mean, sd = mean_sd(values)
    if math.isnan(sd):
        return math.nan, math.nan
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * sd / math.sqrt(len(values))
    return mean - half, mean + half


def paired(variant: str, reference: str, losses: Mapping[str, Mapping[int, float]]) -> Difference:
    """Two-sided paired t-test of `losses[variant]` minus `losses[reference]` ({seed: loss}) over their common seeds.

    p is NaN for fewer than two pairs, and where the differences do not vary at all.
    """
    one, other = losses.get(variant, {}), losses.get(reference, {})
    seeds = tuple(sorted(set(one) & set(other)))
    differences = [one[seed] - other[seed] for seed in seeds]
    mean, sd = mean_sd(differences)
    if sd < 1e-9 * max((abs(one[seed]) for seed in seeds), default=0.0):  # rounding, not spread
        sd = 0.0
    p = math.nan
    if sd > 0:
        p = float(2 * stats.t.sf(abs(mean) / (sd / math.sqrt(len(seeds))), len(seeds) - 1))
    return Difference(variant, reference, seeds, mean, sd, t_interval(differences), p, smallest_effect(sd, len(seeds)))


def smallest_effect(sd: float, n: int, power: float = POWER, alpha: float = ALPHA) -> float:
    """The true mean difference that a two-sided paired t-test of n pairs finds with the given power, for this sd.

    The root in d of P(|T| > t_crit) = power, T noncentral t with n - 1 degrees of freedom and noncentrality
    d sqrt(n) / sd. NaN for n < 2.
    """
    if n < 2 or not math.isfinite(sd):
        return math.nan
    return _shift(n, power, alpha) * sd / math.sqrt(n)


@cache
def _shift(n: int, power: float, alpha: float) -> float:
    """The noncentrality at which a two-sided t-test of n pairs has the given power: a fifth of a second to find."""
    high = float(stats.t.ppf(1 - alpha / 2, n - 1)) + 1
    while rejection(high, n - 1, alpha) < power:
        high *= 1.5
    return float(optimize.brentq(lambda shift: rejection(shift, n - 1, alpha) - power, 0, high))


def rejection(shift: float, degrees: int, alpha: float = ALPHA) -> float:
    """How often a two-sided t-test rejects when the statistic's noncentrality is `shift`.

    Integrated over the chi distribution of the estimated deviation: scipy's noncentral t is NaN for some shifts here.
    """
    critical = float(stats.t.ppf(1 - alpha / 2, degrees))
    scaled, density = critical / math.sqrt(degrees), stats.chi(degrees).pdf

    def rejected(c: float) -> float:
        return float((special.ndtr(shift - scaled * c) + special.ndtr(-shift - scaled * c)) * density(c))

    edge = math.sqrt(degrees)  # the mass of chi lies within a few units of here
    return float(sum(integrate.quad(rejected, *ends)[0] for ends in ((0, edge), (edge, edge + 12))))


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """The same differences with p adjusted for their number (Holm), where there is more than one test."""
    adjusted = holm_adjusted([d.p for d in differences])
    return [replace(d, adjusted=p) for d, p in zip(differences, adjusted, strict=True)]


def holm_adjusted(ps: Sequence[float]) -> list[float]:
    """The p values adjusted for how many there are (Holm); what was not tested, NaN, counts for none and stays."""
    order = sorted((k for k, p in enumerate(ps) if not math.isnan(p)), key=lambda k: ps[k])
    adjusted, largest = [math.nan] * len(ps), 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * ps[k]))
        adjusted[k] = largest
    return adjusted
