"""Neighbouring lines of a prediction that are one block of the truth, found as OmniDocBench finds them.

A block of the truth that nothing resembles yet is offered every run of lines that nothing resembles; a run grows while
that brings it nearer. Each block's best run is kept, and where runs overlap, the set of them with the smallest mean
distance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipes.metrics.distance import distance_matrix, normalised_distance, occurs

CLEAR = 0.25
TOLERANCE = 0.6


@dataclass(frozen=True)
class Run:
    """Lines first..last of a prediction, and their distance from a block."""

    lines: range
    cost: float

    def overlaps(self, other: "Run") -> bool:
        """Whether they share a line."""
        return self.lines.start < other.lines.stop and other.lines.start < self.lines.stop


def merge_lines(cost: np.ndarray, truths: Sequence[str], lines: Sequence[str]) -> tuple[np.ndarray, list[range]]:
    """Join lines; returns the distances [truths, columns] and the lines of each column.

    Args:
        cost: [truths, lines], their normalised distances.
        truths: normalised, not empty.
        lines: of the prediction, likewise, in its order.
    """
    clear = cost < CLEAR
    blocks = np.flatnonzero(~clear.any(1))
    free = ~clear.any(0)
    best = [_best_run(truths[block], lines, free) for block in blocks]
    kept = _disjoint([run for run in best if run is not None])
    if not kept:
        return cost, [range(index, index + 1) for index in range(len(lines))]
    columns, index = [], 0
    starts = {run.lines.start: run.lines for run in kept}
    while index < len(lines):
        columns.append(starts.get(index, range(index, index + 1)))
        index = columns[-1].stop
    return distance_matrix(truths, [joined(lines, column) for column in columns]), columns


def joined(lines: Sequence[str], run: range) -> str:
    """The lines of a run as one."""
    return " ".join(lines[index] for index in run)


def _best_run(truth: str, lines: Sequence[str], free: np.ndarray) -> Run | None:
    runs = []
    found: dict[int, tuple[bool, bool]] = {}
    for start in np.flatnonzero(free):
        lengths = _run(truth, lines, free, int(start), found)
        run = range(int(start), int(start) + lengths)
        runs.append(Run(run, normalised_distance(truth, joined(lines, run))))
    return min(runs, key=lambda run: run.cost, default=None)


def _run(truth: str, lines: Sequence[str], free: np.ndarray, start: int, found: dict[int, tuple[bool, bool]]) -> int:
    """How many lines from `start` on belong together."""

    def inside(index: int) -> tuple[bool, bool]:
        # whether the line is somewhere in the truth, and whether it is below the limit, too
        if index not in found:
            near = occurs(lines[index], truth, TOLERANCE, inclusive=True)
            found[index] = near, near and occurs(lines[index], truth, TOLERANCE)
        return found[index]

    stop = start + 1
    apart = normalised_distance(truth, lines[start])
    while stop < len(lines) and free[stop]:
        together = joined(lines, range(start, stop + 1))
        distance = normalised_distance(truth, together)
        if distance > apart or not inside(stop - 1)[0] or not inside(stop)[1]:
            break
        stop += 1
        if len(together) > len(truth):
            break
        apart = distance
    return stop - start


def _disjoint(runs: list[Run]) -> list[Run]:
    """Runs that share no line, out of those that may."""
    kept: list[Run] = []
    group: list[Run] = []
    for run in sorted(runs, key=lambda run: run.lines.start):
        if group and not any(run.overlaps(other) for other in group):
            kept += _cheapest(group)
            group = []
        group.append(run)
    return kept + _cheapest(group) if group else kept


def _cheapest(group: list[Run]) -> list[Run]:
    sets = [[group[0]]]
    for run in group[1:]:
        placed = False
        for chosen in sets:
            same = next((index for index, other in enumerate(chosen) if other.lines == run.lines), None)
            if same is not None:
                placed = True
                if chosen[same].cost > run.cost:
                    chosen[same] = run
            elif not any(run.overlaps(other) for other in chosen):
                chosen.append(run)
                placed = True
        if not placed:
            sets.append([run])
    return min(sets, key=lambda chosen: sum(run.cost for run in chosen) / len(chosen))
