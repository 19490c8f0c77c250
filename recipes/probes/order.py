"""The order in which queries look at a page, against the order in which it is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from recipes.probes.pages import Block

Array = NDArray[np.float64]
Numbers = NDArray[Any]

# below this share of its attention a query sees no block
NOTHING = 1e-9
# of ranks
ROUNDING = 1e-6


@dataclass(frozen=True)
class Order:
    """One view: query index against what the query looks at; all numbers but counts and shares are Spearman's.

    Attributes:
        centroid: index and order of the block that the centroid of the query's attention falls in, or is nearest to.
        mass: index and mean order of the blocks, weighted by the attention in each.
        x: index and the centroid's x.
        y: index and the centroid's y.
        raster: what `centroid` would be if the queries looked at the visual tokens one after the other.
        beyond_raster: `mass`, with the raster order of the centroids partialled out.
        inside: share of centroids that fall in a block.
        width: root mean square distance of a query's attention from its centroid, in sides of the view.
        blocks: with a place in the reading order.
        queries: of the view.
    """

    centroid: float
    mass: float
    x: float
    y: float
    raster: float
    beyond_raster: float
    inside: float
    width: float
    blocks: int
    queries: int


@dataclass(frozen=True)
class Measured:
    """An `Order`, and what is drawn and tested of it.

    Attributes:
        order: the numbers.
        centroids: [q, 2], x and y in pixels of the view.
        by_centroid: [q], order of each query's block; None without blocks.
        by_mass: [q], mean order of what each query sees; None without blocks.
        scan: [q], where a raster scan comes by each centroid.
    """

    order: Order
    centroids: Array
    by_centroid: Array | None
    by_mass: Array | None
    scan: Array


def centres(grid: tuple[int, int], size: tuple[int, int]) -> Array:
    """Middles [m, 2] of the visual tokens of a view of (width, height) pixels, x and y, in raster order."""
    rows, columns = grid
    y, x = np.meshgrid(
        (np.arange(rows) + 0.5) * size[1] / rows, (np.arange(columns) + 0.5) * size[0] / columns, indexing="ij"
    )
    return np.stack([x.ravel(), y.ravel()], -1)


def measure(maps: Array, grid: tuple[int, int], size: tuple[int, int], blocks: Sequence[Block]) -> Measured:
    """Compare the order of queries with that of blocks.

    Args:
        maps: [q, m], attention of queries to visual tokens; rows need not add up to 1.
        grid: (rows, columns) of the visual tokens.
        size: (width, height) of the view in pixels.
        blocks: those with a place in the reading order; below two there is no order to compare with.
    """
    count, middles = len(maps), centres(grid, size)
    index = np.arange(count)
    share = maps / maps.sum(1, keepdims=True)
    centroids = share @ middles
    distance = ((middles[None] - centroids[:, None]) ** 2).sum(-1)
    width = float(np.sqrt((share * distance).sum(1)).mean() / max(size))
    scan = np.floor(centroids[:, 1] / size[1] * grid[0]) * size[0] + centroids[:, 0]
    by_centroid = by_mass = None
    raster = order = mass = beyond = inside = float("nan")
    if len(blocks) > 1:
        orders, boxes = ranks_of(blocks), boxes_of(blocks)
        nearest, within = nearest_block(centroids, boxes)
        by_centroid = orders[nearest]
        by_mass = seen_order(maps, grid, size, blocks)
        inside = float(within.mean())
        in_turn = middles[((index + 0.5) * len(middles) / count).astype(int)]
        raster = spearman(index, orders[nearest_block(in_turn, boxes)[0]])
        order, mass = spearman(index, by_centroid), spearman(index, by_mass)
        beyond = partial_spearman(index, by_mass, scan)
    x, y = (spearman(index, centroids[:, axis]) for axis in (0, 1))
    found = Order(order, mass, x, y, raster, beyond, inside, width, len(blocks), count)
    return Measured(found, centroids, by_centroid, by_mass, scan)


def seen_order(maps: Array, grid: tuple[int, int], size: tuple[int, int], blocks: Sequence[Block]) -> Array:
    """[q], mean order of the blocks weighted by each query's attention in them; of the nearest one if it sees none."""
    orders, boxes = ranks_of(blocks), boxes_of(blocks)
    mass = maps @ overlaps(grid, size, boxes)
    total = mass.sum(1)
    blind = total <= NOTHING * maps.sum(1)
    seen = (mass @ orders) / np.where(blind, 1, total)
    middles = centres(grid, size)
    centroids = maps @ middles / maps.sum(1, keepdims=True)
    return np.where(blind, orders[nearest_block(centroids, boxes)[0]], seen)


def overlaps(grid: tuple[int, int], size: tuple[int, int], boxes: Array) -> Array:
    """[m, n], share of each visual token's square that lies in each box."""
    rows, columns = grid
    along = []
    for count, length, low, high in ((columns, size[0], 0, 2), (rows, size[1], 1, 3)):
        edges = np.arange(count + 1) * length / count
        covered = np.minimum(edges[1:, None], boxes[:, high]) - np.maximum(edges[:-1, None], boxes[:, low])
        along.append(covered.clip(0) * count / length)
    return (along[1][:, None] * along[0][None]).reshape(rows * columns, len(boxes))


def nearest_block(points: Array, boxes: Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The box [n] that each point is in or nearest to, the smallest of several, and whether it is inside."""
    outside = np.maximum(boxes[None, :, :2] - points[:, None], points[:, None] - boxes[None, :, 2:]).clip(0)
    distance = np.hypot(outside[..., 0], outside[..., 1])
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    # areas decide between boxes at one distance alone
    best = np.array([np.lexsort((area, row))[0] for row in distance])
    return best, distance[np.arange(len(points)), best] == 0


def ranks_of(blocks: Sequence[Block]) -> Array:
    """The blocks' orders as ranks from 1; those that share an order share a rank."""
    return rankdata([block.order for block in blocks], method="dense").astype(np.float64)


def boxes_of(blocks: Sequence[Block]) -> Array:
    """The blocks' boxes, [n, 4]."""
    return np.array([block.box for block in blocks], dtype=np.float64)


def spearman(one: Numbers, other: Numbers) -> float:
    """Spearman's rank correlation; 0 where one of them is constant and so has no order."""
    return _correlation(rankdata(one), rankdata(other))


def partial_spearman(one: Numbers, other: Numbers, given: Numbers) -> float:
    """Spearman's correlation of what is left of two after a linear fit of their ranks to a third's."""
    basis = _basis(given)
    left = []
    for values in (one, other):
        ranks = rankdata(values)
        rest = ranks - basis @ np.linalg.lstsq(basis, ranks, rcond=None)[0]
        # what a fit leaves of ranks that it explains is rounding
        left.append(np.where(np.abs(rest).max() < ROUNDING, 0.0, rest))
    return _correlation(*left)


def shuffles(count: int, permutations: int, seed: int) -> NDArray[np.int64]:
    """Random orders [permutations, count] of query indices, the same for every page."""
    return np.random.default_rng(seed).permuted(np.tile(np.arange(count), (permutations, 1)), axis=1)


def null(values: Numbers, orders: NDArray[np.int64], given: Numbers | None = None) -> Array:
    """Spearman's correlation of values [q] with each of the shuffled indices [permutations, q], partial if given."""
    known = np.ones((len(values), 1)) if given is None else _basis(given)
    basis = np.linalg.qr(known)[0]
    ranks, shuffled = (rows - rows @ basis @ basis.T for rows in (rankdata(values), orders.astype(np.float64)))
    sizes = np.linalg.norm(ranks) * np.linalg.norm(shuffled, axis=1)
    vanish = (np.abs(ranks).max() < ROUNDING) | (sizes == 0)
    return np.where(vanish, 0.0, shuffled @ ranks / np.where(sizes == 0, 1, sizes))


def p_value(observed: float, under_null: Array) -> float:
    """Two-sided share of shuffles that are as far from 0 as what was observed, which counts as one of them."""
    return float((1 + (np.abs(under_null) >= abs(observed) - 1e-12).sum()) / (1 + len(under_null)))


def _basis(given: Numbers) -> Array:
    return np.stack([np.ones(len(given)), rankdata(given)], 1)


def _correlation(one: Array, other: Array) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / size) if size > 0 else 0.0
