"""What the numbers of a probe say, in sentences."""

import math
from collections.abc import Mapping, Sequence

from recipes.probes.summary import Statistic, Summary
from recipes.reports.format import count
from recipes.reports.format import p_value as written

SIGNIFICANT = 0.05
# two hypotheses that predict the same: the move tells nothing
ALIKE = 0.9


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
