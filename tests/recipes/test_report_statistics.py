"""The report's statistics against hand-computed numbers and formulas written another way."""

import math

import numpy as np
import pytest
from scipy import stats

from recipes.reports.statistics import holm, mean_sd, paired, rejection, smallest_effect, t_interval


def test_paired_t_by_hand():
    losses = {"mhc": {0: 2.1, 1: 2.3, 2: 2.2, 7: 9.9}, "residual": {0: 2.2, 1: 2.35, 2: 2.35, 8: 0.0}}
    d = paired("mhc", "residual", losses)
    # differences -.10, -.05, -.15: mean -.1, sd .05, t = -.1 / (.05 / sqrt 3) = -2 sqrt 3
    assert d.seeds == (0, 1, 2)
    assert d.n == 3
    assert d.mean == pytest.approx(-0.1)
    assert d.sd == pytest.approx(0.05)
    t = 2 * math.sqrt(3)
    assert d.p == pytest.approx(1 - t / math.sqrt(t * t + 2), rel=1e-6)  # Student's t has a closed form at 2 degrees
    assert d.interval == pytest.approx((-0.1 - 4.302653 * 0.05 / math.sqrt(3), -0.1 + 4.302653 * 0.05 / math.sqrt(3)))
    assert not d.significant


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_paired_t_equals_scipys(n):
    draw = np.random.default_rng(n)
    a, b = draw.normal(size=n), draw.normal(size=n) + 0.3
    d = paired("a", "b", {"a": dict(enumerate(a)), "b": dict(enumerate(b))})
    expected = stats.ttest_rel(a, b)
    assert d.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert d.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_one_pair_and_no_spread_give_no_p():
    one = paired("a", "b", {"a": {0: 2.0}, "b": {0: 2.1}})
    assert one.n == 1
    assert one.mean == pytest.approx(-0.1)
    assert all(math.isnan(x) for x in (one.sd, one.p, one.smallest, *one.interval))
    still = paired("a", "b", {"a": {0: 2.0, 1: 3.1, 2: 2.4}, "b": {0: 2.1, 1: 3.2, 2: 2.5}})  # equal but for rounding
    assert math.isnan(still.p)
    assert still.sd == 0
    assert not still.significant
    assert paired("a", "c", {"a": {0: 1.0}}).n == 0


@pytest.mark.parametrize("n", [3, 5, 10, 30])
def test_smallest_effect_has_eighty_percent_power(n):
    effect, sd = smallest_effect(0.7, n), 0.7
    shift, critical = effect * math.sqrt(n) / sd, stats.t.ppf(0.975, n - 1)
    power = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)  # scipy's noncentral t
    assert power == pytest.approx(0.8, abs=1e-6)


def test_smallest_effect_by_simulation_and_by_table():
    draw = np.random.default_rng(0)
    for n in (2, 3):
        x = draw.normal(smallest_effect(1.0, n), 1.0, size=(200_000, n))
        t = x.mean(1) / (x.std(1, ddof=1) / math.sqrt(n))
        assert np.mean(np.abs(t) > stats.t.ppf(0.975, n - 1)) == pytest.approx(0.8, abs=0.005)
    # about (1.96 + 0.8416) / sqrt n where n is large; the published 0.778 for 15 pairs
    assert smallest_effect(1.0, 5000) == pytest.approx(2.8016 / math.sqrt(5000), rel=1e-3)
    assert smallest_effect(1.0, 15) == pytest.approx(0.778, abs=5e-4)
    assert smallest_effect(0.0, 3) == 0
    assert math.isnan(smallest_effect(1.0, 1))
    assert rejection(0.0, 2) == pytest.approx(0.05)


def test_holm_by_hand():
    noise = np.random.default_rng(1).normal(size=(4, 4))
    losses = {f"v{k}": dict(enumerate(2 + 0.5 * k + noise[k])) for k in range(4)}
    plain = [paired(f"v{k}", "v0", losses) for k in (1, 2, 3)]
    adjusted = {d.variant: d.adjusted for d in holm(plain)}
    first, second, third = sorted(plain, key=lambda d: d.p)
    assert adjusted[first.variant] == pytest.approx(min(1, 3 * first.p))
    assert adjusted[second.variant] == pytest.approx(min(1, max(3 * first.p, 2 * second.p)))
    assert adjusted[third.variant] == pytest.approx(min(1, max(adjusted[second.variant], third.p)))


def test_mean_sd_and_interval():
    assert mean_sd([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))
    assert math.isnan(mean_sd([1.0])[1])
    assert all(math.isnan(x) for x in (*mean_sd([]), *t_interval([1.0])))
