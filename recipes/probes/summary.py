"""From the numbers of pages to means, spreads and p-values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp

from recipes.probes.following import Movement
from recipes.probes.measure import Evidence
from recipes.probes.order import p_value
from recipes.probes.queries import Change

# pages that a test over pages needs
FEWEST = 5
# correlations that differ by rounding
EQUAL = 1e-9
MARKS = ("centroid", "mass", "x", "y", "raster", "beyond_raster", "inside", "width", "queries")


@dataclass(frozen=True)
class Statistic:
    """Over pages.

    Attributes:
        mean: NaN without pages.
        spread: standard deviation; NaN for one page.
        n: pages that have the number.
        p: two-sided, query indices shuffled, the same shuffle on every page; None where it means nothing. However many
            pages there are, it knows only as much as there are queries.
        p_pages: two-sided t-test of the mean against 0 over pages; None below `FEWEST` of them.
    """

    mean: float
    spread: float
    n: int
    p: float | None = None
    p_pages: float | None = None


@dataclass(frozen=True)
class Summary:
    """Of some pages.

    Attributes:
        pages: how many.
        order: by the names of `Order`; crops are averaged with their page first.
        layers: index and `mass` for every attention sublayer of the global view.
        moves: by the move's name, then by those of `Movement`; `difference` is `content` less `place`.
        changes: by the change's name, then by those of `Change`.
        loss: nats per token of the pages' text.
    """

    pages: int
    order: Mapping[str, Statistic]
    layers: tuple[Statistic, ...]
    moves: Mapping[str, Mapping[str, Statistic]]
    changes: Mapping[str, Mapping[str, Statistic]]
    loss: Statistic


def summarise(found: Sequence[Evidence]) -> Summary:
    """Means, spreads and p-values over pages."""
    pages = [each.page for each in found]
    order = {
        name: _statistic([np.mean([getattr(view, name) for view in page.views]) for page in pages], found, name)
        for name in MARKS
    }
    layers = [_statistic(list(column)) for column in zip(*(page.layers for page in pages if page.layers), strict=False)]
    moves: dict[str, dict[str, Statistic]] = {}
    for name in _names(page.movements for page in pages):
        moved = [each for each in found if name in each.page.movements]
        columns = {
            field.name: [getattr(each.page.movements[name], field.name) for each in moved] for field in fields(Movement)
        }
        columns["difference"] = list(np.subtract(columns["content"], columns["place"]))
        moves[name] = {key: _statistic(values, moved, f"{name}/{key}") for key, values in columns.items()}
    changes = {
        name: {
            field.name: _statistic([_number(getattr(page.changes[name], field.name)) for page in pages])
            for field in fields(Change)
        }
        for name in _names(page.changes for page in pages)
    }
    return Summary(len(pages), order, tuple(layers), moves, changes, _statistic([_number(p.loss) for p in pages]))


def _names(tables: Any) -> list[str]:
    return list(dict.fromkeys(name for table in tables for name in table))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _statistic(values: Sequence[float], found: Sequence[Evidence] = (), name: str = "") -> Statistic:
    known = [float(value) for value in values if math.isfinite(value)]
    if not known:
        return Statistic(math.nan, math.nan, 0)
    mean = float(np.mean(known))
    nulls = [each.nulls[name] for each in found if name in each.nulls]
    p = p_value(mean, np.mean(nulls, axis=0)) if nulls else None
    spread = float(np.std(known, ddof=1)) if len(known) > 1 else math.nan
    over_pages = None
    if nulls and len(known) >= FEWEST:
        # pages that all agree leave a t-test nothing to divide by
        over_pages = float(ttest_1samp(known, 0).pvalue) if spread > EQUAL else float(abs(mean) <= EQUAL)
    return Statistic(mean, spread, len(known), p, over_pages)
