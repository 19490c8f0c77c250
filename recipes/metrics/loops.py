"""Loops: the same few tokens again and again."""

from collections.abc import Sequence

import numpy as np


def loop(tokens: Sequence[int], *, period: int = 20, times: int = 4, length: int = 48) -> tuple[int, int] | None:
    """The first loop of the shortest period as (start, period), None where there is none.

    A loop is an n-gram that follows itself: x[i] = x[i - n] over `times` of them, and `length` tokens in all, so that
    a row of dots or of empty cells is none.

    Args:
        tokens: of a page.
        period: the longest n.
        times: how often an n-gram stands there at least.
        length: tokens that a loop takes at least.
    """
    row = np.asarray(tokens)
    for n in range(1, min(period, len(row) - 1) + 1):
        needed = max(times * n, length) - n
        same = np.concatenate(([0], row[n:] == row[:-n], [0]))
        edges = np.flatnonzero(np.diff(same))
        starts, stops = edges[::2], edges[1::2]
        long = np.flatnonzero(stops - starts >= needed)
        if len(long):
            return int(starts[long[0]]), n
    return None
