"""The same page with its content elsewhere: columns exchanged, the page turned."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from recipes.probes.pages import Block, Box, ProbePage
from recipes.probes.views import Points

# of blocks that stand in columns: a wider one spans them
WIDEST = 0.75
# of the page's area, that columns take at least; of its width, that each of them does
SMALLEST = 0.05
NARROWEST = 0.1

TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180}


@dataclass(frozen=True)
class Moved:
    """A page whose content is elsewhere.

    Attributes:
        page: its blocks moved with the content and keep their order.
        back: points [n, 2] of the moved page -> where that content was.
        name: of the move.
    """

    page: ProbePage
    back: Callable[[Points], Points]
    name: str


def moves_of(page: ProbePage) -> list[Moved]:
    """The page with its columns exchanged, if it has any, and turned by 90 and 180 degrees."""
    columns = page.columns or columns_of(page)
    exchanged = [exchange(page, columns)] if len(columns) > 1 else []
    return [*exchanged, *(turn(page, degrees) for degrees in TURNS)]


def turn(page: ProbePage, degrees: int) -> Moved:
    """Turn a page against the clock, by 90 or 180 degrees."""
    width, height = page.image.size

    def forth(points: Points) -> Points:
        x, y = points.T
        return np.stack([y, width - x] if degrees == 90 else [width - x, height - y], -1)

    def back(points: Points) -> Points:
        x, y = points.T
        return np.stack([width - y, x] if degrees == 90 else [width - x, height - y], -1)

    def turned(box: Box) -> Box:
        corners = forth(np.array(box, dtype=np.float64).reshape(2, 2))
        return _box(corners)

    blocks = tuple(replace(block, box=turned(block.box)) for block in page.blocks)
    image = page.image.transpose(TURNS[degrees])
    moved = replace(page, image=image, blocks=blocks, columns=())
    return Moved(moved, back, f"turned by {degrees} degrees")


def exchange(page: ProbePage, columns: Sequence[Box]) -> Moved:
    """Put the columns of a page in the opposite order, each with half of the gutters beside it.

    Args:
        page: to cut.
        columns: boxes in pixels, side by side.
    """
    columns = sorted(columns)
    width, height = page.image.size
    top, bottom = round(min(box[1] for box in columns)), round(max(box[3] for box in columns))
    top, bottom = max(top, 0), min(bottom, height)
    gutters = [(left[2] + right[0]) / 2 for left, right in itertools.pairwise(columns)]
    half = min(max(0.0, right[0] - left[2]) / 2 for left, right in itertools.pairwise(columns))
    edges = [round(edge) for edge in (max(0.0, columns[0][0] - half), *gutters, min(width, columns[-1][2] + half))]
    old = list(itertools.pairwise(edges))
    image = page.image.copy()
    shifts, place = [0] * len(old), edges[0]
    for k in reversed(range(len(old))):
        shifts[k] = place - old[k][0]
        image.paste(page.image.crop((old[k][0], top, old[k][1], bottom)), (place, top))
        place += old[k][1] - old[k][0]

    def shift_of(x: Points, y: Points, starts: Sequence[int], ends: Sequence[int]) -> Points:
        moved = np.zeros_like(x)
        for start, end, shift in zip(starts, ends, shifts, strict=True):
            moved[(x >= start) & (x < end) & (y >= top) & (y < bottom)] = shift
        return moved

    def back(points: Points) -> Points:
        x, y = points.T
        new = [(start + shift, end + shift) for (start, end), shift in zip(old, shifts, strict=True)]
        return np.stack([x - shift_of(x, y, *zip(*new, strict=True)), y], -1)

    def moved(block: Block) -> Block:
        left, upper, right, lower = block.box
        middle = np.array([(left + right) / 2]), np.array([(upper + lower) / 2])
        shift = float(shift_of(*middle, *zip(*old, strict=True))[0])
        return replace(block, box=(left + shift, upper, right + shift, lower))

    blocks = tuple(moved(block) for block in page.blocks)
    return Moved(replace(page, image=image, blocks=blocks, columns=()), back, "columns exchanged")


def columns_of(page: ProbePage) -> list[Box]:
    """Columns between which no block stands, of the largest band of the page that has any; none for a single column.

    The page is cut into bands where no block crosses a horizontal line; bands in a row whose blocks leave the same
    gutters are one. What spans the columns, such as a title, ends a band. Blocks that have no place in the reading
    order are not looked at, and a strip of numbers beside formulas is no column.
    """
    width, height = page.image.size
    boxes = sorted((block.box for block in page.ordered), key=lambda box: box[1])
    bands = [[boxes[k] for k in run] for run in _runs([(box[1], box[3]) for box in boxes])]
    best: list[Box] = []
    largest = SMALLEST * width * height
    for first in range(len(bands)):
        for last in range(first, len(bands)):
            inside = [box for band in bands[first : last + 1] for box in band]
            if any(box[2] - box[0] > WIDEST * width for box in bands[last]):
                break
            columns = [_box(np.array([inside[k] for k in run]).reshape(-1, 2)) for run in _columns(inside)]
            area = sum((right - left) * (bottom - top) for left, top, right, bottom in columns)
            narrowest = min(right - left for left, _, right, _ in columns)
            if len(columns) > 1 and narrowest > NARROWEST * width and area > largest:
                best, largest = sorted(columns), area
    return best


def _columns(boxes: Sequence[Box]) -> list[list[int]]:
    return _runs([(box[0], box[2]) for box in boxes])


def _runs(intervals: Sequence[tuple[float, float]]) -> list[list[int]]:
    """Groups of intervals that overlap, in order of where they begin."""
    groups: list[list[int]] = []
    end = float("-inf")
    for k in sorted(range(len(intervals)), key=lambda k: intervals[k][0]):
        start, stop = intervals[k]
        if start >= end:
            groups.append([])
        groups[-1].append(k)
        end = max(end, stop)
    return groups


def _box(corners: Points) -> Box:
    (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
    return left, top, right, bottom
