"""Which lines of a prediction belong to which blocks of the truth: OmniDocBench's "quick match".

First, lines that resemble what is not counted (headers, captions, ...) go. Then neighbouring lines are joined where a
block was cut, blocks and lines are assigned to one another at the smallest sum of distances, and pairs above 0.7 are
parted again. A block that is left may be found inside a line; what is still left is assigned once more, however far.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.optimize import linear_sum_assignment

from recipes.evaluation.merging import CLEAR, merge_lines
from recipes.metrics.distance import distance_matrix, occurs

FAR = 0.7
INSIDE = 0.4


@dataclass(frozen=True)
class Line:
    """Something to be matched.

    Attributes:
        content: as it stands.
        normal: what is compared.
        category: of a block of the truth; of a line its kind.
    """

    content: str
    normal: str
    category: str = ""


@dataclass(frozen=True)
class Match:
    """Blocks and the lines that they are compared with, by index; no lines where nothing was found."""

    blocks: tuple[int, ...]
    lines: tuple[int, ...]


def match(blocks: Sequence[Line], lines: Sequence[Line], ignored: frozenset[str]) -> list[Match]:
    """Match what the benchmark counts: every block that is not ignored stands in one match.

    Lines that match no block are left out, for the benchmark does not count them.
    """
    if not blocks:
        return []
    if not lines:
        return [Match((block,), ()) for block in range(len(blocks))]
    if len(blocks) == len(lines) == 1:
        return [Match((0,), (0,))]
    counted = [index for index, block in enumerate(blocks) if block.category not in ignored]
    others = [block.normal for block in blocks if block.category in ignored]
    resembles = (distance_matrix(others, [line.normal for line in lines]) < CLEAR).any(0)
    left = [index for index in range(len(lines)) if not resembles[index]]
    found = _match([blocks[index].normal for index in counted], [lines[index].normal for index in left])
    return [
        Match(tuple(counted[index] for index in pair.blocks), tuple(left[index] for index in pair.lines))
        for pair in found
    ]


def category(blocks: Sequence[Line], found: Match, ignored: frozenset[str]) -> str:
    """The most frequent category of a match's blocks, the ignored ones only where there are no others."""
    names = [blocks[index].category for index in found.blocks]
    return Counter([name for name in names if name not in ignored] or names).most_common(1)[0][0]


def _match(truths: list[str], lines: list[str]) -> list[Match]:
    groups = _assigned(truths, lines)
    blocks_found = {block for blocks in groups.values() for block in blocks}
    _find_inside(groups, [block for block in range(len(truths)) if block not in blocks_found], truths, lines)
    matches = [Match(tuple(sorted(blocks)), run) for run, blocks in groups.items() if blocks]
    matched = {block for blocks in groups.values() for block in blocks}
    used = {line for run in groups for line in run}
    # what is left, in the order that the benchmark's sets give it
    blocks, spare = list(set(range(len(truths))) - matched), list(set(range(len(lines))) - used)
    if blocks and spare:
        cost = distance_matrix([truths[block] for block in blocks], [lines[line] for line in spare])
        for row, column in zip(*linear_sum_assignment(cost), strict=True):
            matches.append(Match((blocks[row],), (spare[column],)))
            matched.add(blocks[row])
    return matches + [Match((block,), ()) for block in range(len(truths)) if block not in matched]


def _assigned(truths: list[str], lines: list[str]) -> dict[tuple[int, ...], list[int]]:
    """Runs of lines and the blocks that are theirs, none farther than the limit."""
    cost, columns = merge_lines(distance_matrix(truths, lines), truths, lines)
    rows, chosen = linear_sum_assignment(cost)
    return {
        tuple(columns[column]): [int(row)]
        for row, column in zip(rows, chosen, strict=True)
        if not cost[row, column] > FAR
    }


def _find_inside(
    groups: dict[tuple[int, ...], list[int]], left: list[int], truths: list[str], lines: list[str]
) -> None:
    """Give the blocks that are left to the first line that holds them."""
    given: set[int] = set()
    for index, line in enumerate(lines):
        found = [block for block in left if occurs(truths[block], line, INSIDE)]
        if found:
            # a line that holds only blocks of earlier lines counts as used all the same
            groups.setdefault((index,), []).extend(block for block in found if block not in given)
            given.update(found)
