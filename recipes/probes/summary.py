"""From the numbers of pages to means, spreads, p-values, and what they say in sentences."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp

from recipes.probes.following import Movement
from recipes.probes.measure import Evidence, PageProbe
from recipes.probes.order import p_value
from recipes.probes.queries import Change
from recipes.reports.format import count
from recipes.reports.format import p_value as written

SIGNIFICANT = 0.05
# two hypotheses that predict the same: the move tells nothing
ALIKE = 0.9
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


@dataclass(frozen=True)
class Probe:
    """A model's probe.

    Attributes:
        model: what was probed.
        encoder: its class.
        raster: it has no queries.
        settings: how.
        findings: what the numbers say, sentence by sentence.
        summary: over all pages.
        by_page_type: over the pages of each type.
        by_layout: over the pages of each layout.
        scrambled: the same of encoders whose weights are these in random order.
        pages: the numbers of each.
        failed: what could not be read.
    """

    model: str
    encoder: str
    raster: bool
    settings: Mapping[str, Any]
    findings: tuple[str, ...]
    summary: Summary
    by_page_type: Mapping[str, Summary]
    by_layout: Mapping[str, Summary]
    scrambled: tuple[Summary, ...]
    pages: tuple[PageProbe, ...]
    failed: tuple[str, ...]


def conclude(
    model: str,
    encoder: str,
    raster: bool,
    settings: Mapping[str, Any],
    found: Sequence[Evidence],
    scrambled: Sequence[Sequence[Evidence]] = (),
    failed: Sequence[str] = (),
) -> Probe:
    """Put the evidence of all pages together.

    Args:
        model: for the reader.
        encoder: name of its class.
        raster: it has no queries.
        settings: for the reader.
        found: of the pages.
        scrambled: of the same pages, for each encoder with scrambled weights.
        failed: pages that could not be read.
    """
    summary, chance = summarise(found), tuple(summarise(each) for each in scrambled)
    return Probe(
        model,
        encoder,
        raster,
        settings,
        tuple(findings(encoder, raster, summary, chance)),
        summary,
        _by(found, lambda page: page.page_type),
        _by(found, lambda page: page.layout),
        chance,
        tuple(each.page for each in found),
        tuple(failed),
    )


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


def findings(encoder: str, raster: bool, summary: Summary, scrambled: Sequence[Summary]) -> list[str]:
    """What the numbers say."""
    if raster:
        found = summary.order["raster"]
        against = f"; Spearman of a raster scan and the block order is {_with_spread(found)}" if found.n else ""
        return [f"{encoder} takes no queries: feature k is visual token k, so index is position, not order{against}."]
    told = _order_of(summary, scrambled)
    above = above_chance(summary, scrambled)
    told += [_move(name, move, summary, above) for name, move in summary.moves.items()]
    if summary.changes:
        told.append("; ".join(_change(name, change) for name, change in summary.changes.items()) + ".")
    return told


def above_chance(summary: Summary, scrambled: Sequence[Summary]) -> bool:
    """Whether index and block order go together more than with any weights scrambled; without these, by `p`."""
    found = summary.order["mass"]
    if scrambled:
        return all(abs(found.mean) > abs(other.order["mass"].mean) for other in scrambled)
    return _sure(found.p)


def _order_of(summary: Summary, scrambled: Sequence[Summary]) -> list[str]:
    found, order = summary.order["mass"], summary.order
    queries = round(summary.order["queries"].mean)
    if not found.n:
        return [
            "No page has blocks in a known order, so the queries' order is compared with the page alone: Spearman of "
            f"index and y {_with_spread(order['y'])}, of index and x {_with_spread(order['x'])}."
        ]
    numbers = (
        f"Spearman of query index and block order {_with_spread(found)} by attention mass and "
        f"{_with_spread(order['centroid'])} by centroid over {count(found.n, 'page')}, {written(found.p or math.nan)}"
    )
    band = [other.order["mass"].mean for other in scrambled]
    numbers += (
        f"; {_range(band)} with the weights scrambled, n = {len(band)}"
        if band
        else "; not compared with scrambled weights"
    )
    if not above_chance(summary, scrambled):
        return [f"The order of the queries is at chance: {numbers}."]
    if not _sure(found.p):
        way = "leans to" if found.mean > 0 else "leans against"
        return [
            f"The order of the queries {way} the reading order, more than scrambled weights do, but {queries} queries "
            f"in random order would often do as well: {numbers}."
        ]
    way = "follow" if found.mean > 0 else "run against"
    beyond = order["beyond_raster"]
    left = f"with the raster order of the centroids taken out {_with_spread(beyond)} is left ({_tests(beyond)})"
    if (_sure(beyond.p) or _sure(beyond.p_pages)) and beyond.mean * found.mean > 0:
        verdict = "this is more than a raster scan"
    elif abs(beyond.mean) < abs(found.mean) / 2:
        verdict = "a raster scan explains it"
    else:
        verdict = "whether a raster scan explains it is open"
    return [
        f"The queries {way} the reading order: {numbers}.",
        f"Against y the index has {_with_spread(order['y'])}, against x {_with_spread(order['x'])}; a raster scan "
        f"would have {_with_spread(order['raster'])} against the block order; {verdict}: {left}.",
    ]


def followed(move: Mapping[str, Statistic], sign: float = 1.0) -> str:
    """What the order of the queries does when content moves: "content", "place", "neither" or "alike".

    Args:
        move: of a `Summary`.
        sign: of the order before the move; -1 where queries run against the reading order.
    """
    content, place, difference = (move[name] for name in ("content", "place", "difference"))
    if not content.n or move["same"].mean > ALIKE:
        return "alike"
    best, name = (content, "content") if sign * difference.mean > 0 else (place, "place")
    sure = all(_sure(each.p) or _sure(each.p_pages) for each in (difference, best))
    return name if sure and sign * best.mean > 0 else "neither"


def _move(name: str, move: Mapping[str, Statistic], summary: Summary, above: bool) -> str:
    content, place, difference = (move[key] for key in ("content", "place", "difference"))
    own = (
        f"the encoder's own order goes with the content {_with_spread(move['followed'])}, with the place "
        f"{_with_spread(move['stayed'])}; of its ranks {_share(move['explained'])} are explained, "
        f"{_share(move['content_alone'])} by the content alone and {_share(move['place_alone'])} by the place alone"
    )
    if not content.n:
        return f"Pages {name} (n = {move['followed'].n}): {own}."
    verdict = {
        "content": "the order follows the content",
        "place": "the order stays with the place",
        "neither": "the order follows neither the content nor the place for sure",
        "alike": "content and place predict the same order, so this move tells nothing",
    }[followed(move, math.copysign(1.0, summary.order["mass"].mean))]
    if not above:
        verdict = "there is no order above chance that could follow content or place"
    over_pages = (
        "" if difference.p_pages is None else f" with queries shuffled, {written(difference.p_pages)} over pages"
    )
    return (
        f"Pages {name} (n = {content.n}): {verdict}; Spearman of index and block order is {_with_spread(content)} with "
        f"the blocks where they are now and {_with_spread(place)} where they were (the "
        f"difference: {_tests(difference)}); {own}."
    )


def _change(name: str, change: Mapping[str, Statistic]) -> str:
    told = f"queries {name}: the output changes by {_share(change['output'])}"
    if change["undone"].n:
        told += f", by {_share(change['undone'])} after the order is put back"
    if change["loss"].n:
        told += f", the loss by {change['loss'].mean:+.3f} nats a token"
    return told


def _by(found: Sequence[Evidence], key: Callable[[PageProbe], str]) -> dict[str, Summary]:
    kinds = sorted({key(each.page) for each in found})
    return {kind: summarise([each for each in found if key(each.page) == kind]) for kind in kinds}


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


def _sure(p: float | None) -> bool:
    return p is not None and p < SIGNIFICANT


def _with_spread(found: Statistic) -> str:
    if not found.n:
        return "unknown"
    return f"{found.mean:.2f}" if math.isnan(found.spread) else f"{found.mean:.2f} ± {found.spread:.2f}"


def _tests(found: Statistic) -> str:
    told = written(math.nan if found.p is None else found.p)
    return told if found.p_pages is None else f"{told} with queries shuffled, {written(found.p_pages)} over pages"


def _share(found: Statistic) -> str:
    return f"{100 * found.mean:.0f} %" if found.n else "unknown"


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"
