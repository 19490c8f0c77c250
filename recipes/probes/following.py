"""Whether the order of the queries follows content that moved, or stays with the place."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from recipes.probes.moves import Moved
from recipes.probes.order import Array, Numbers, centres, overlaps, seen_order, spearman
from recipes.probes.order import boxes_of as boxes
from recipes.probes.views import View

# of the mean attention that a visual token gets; below it the token has no time
ATTENDED = 0.1
NAN = float("nan")


@dataclass(frozen=True)
class Movement:
    """One page before and after a move; all numbers but counts are Spearman's, or shares of the variance of ranks.

    The first three are against the true order of the blocks, NaN without blocks; the others compare the encoder with
    itself: the time of a visual token is the mean index of the queries that look at it, weighted by their attention.

    Attributes:
        content: index and order of the blocks where they are after the move.
        place: index and order of the blocks where they were before it.
        same: what the two predict for the queries, against each other; near 1 the move tells nothing.
        followed: time of a token after the move, and of where its content was before.
        stayed: time of a token after the move, and of the same place before.
        explained: share of the variance of the times' ranks that the two explain together.
        content_alone: share that only `followed` explains.
        place_alone: share that only `stayed` explains.
        tokens: visual tokens that are compared: the content there moved, and some query looks at them.
    """

    content: float
    place: float
    same: float
    followed: float
    stayed: float
    explained: float
    content_alone: float
    place_alone: float
    tokens: int


def follow(
    before: Array, after: Array, grid: tuple[int, int], view: View, moved_view: View, moved: Moved
) -> tuple[Movement, Array | None, Array | None]:
    """Compare the maps [q, m] of a page's global view before and after a move.

    Returns:
        The numbers, and for each query the mean order of what it sees after the move if blocks are where they now
        are, and if they are where they were; None without blocks.
    """
    size, index = view.frame.size, np.arange(len(before))
    by_content = by_place = None
    content = place = same = NAN
    if len(view.ordered) > 1 and len(moved_view.ordered) > 1:
        by_content = seen_order(after, grid, size, moved_view.ordered)
        by_place = seen_order(after, grid, size, view.ordered)
        content, place, same = spearman(index, by_content), spearman(index, by_place), spearman(by_content, by_place)
    here, source = _sources(grid, view, moved_view, moved)
    old, new = _times(before), _times(after)
    known = np.isfinite(new[here]) & np.isfinite(old[here]) & np.isfinite(old[source])
    here, source = here[known], source[known]
    own = (NAN,) * 5 if len(here) < 4 else _shares(new[here], old[source], old[here])
    return Movement(content, place, same, *own, tokens=len(here)), by_content, by_place


def _sources(grid: tuple[int, int], view: View, moved_view: View, moved: Moved) -> tuple[Numbers, Numbers]:
    """Visual tokens with content that moved, in blocks where there are any, and the tokens where that content was."""
    rows, columns = grid
    size = view.frame.size
    middles = centres(grid, size)
    origin = view.frame.into(moved.back(moved_view.frame.out_of(middles)))
    cell = np.floor(origin / np.array(size) * np.array([columns, rows])).astype(int)
    inside = ((cell >= 0) & (cell < [columns, rows])).all(1)
    source = np.where(inside, cell[:, 1] * columns + cell[:, 0], 0)
    wanted = inside & (source != np.arange(len(middles)))
    if moved_view.ordered:
        wanted &= overlaps(grid, size, boxes(moved_view.ordered)).max(1) > 0
    here = np.flatnonzero(wanted)
    return here, source[here]


def _times(maps: Array) -> Array:
    """[m], mean index of the queries that look at each visual token; NaN where hardly any does."""
    mass = maps.sum(0)
    index = np.arange(len(maps))
    seen = mass > ATTENDED * mass.mean()
    return np.where(seen, index @ maps / np.where(seen, mass, 1), np.nan)


def _shares(new: Array, content: Array, place: Array) -> tuple[float, float, float, float, float]:
    followed, stayed = spearman(new, content), spearman(new, place)
    both = _explained(new, content, place)
    return followed, stayed, both, both - _explained(new, place), both - _explained(new, content)


def _explained(values: Array, *by: Array) -> float:
    """R^2 of a linear fit of ranks to ranks."""
    ranks = rankdata(values)
    basis = np.stack([np.ones(len(ranks)), *(rankdata(other) for other in by)], 1)
    rest = ranks - basis @ np.linalg.lstsq(basis, ranks, rcond=None)[0]
    total = ((ranks - ranks.mean()) ** 2).sum()
    return float(1 - (rest**2).sum() / total) if total > 0 else NAN
