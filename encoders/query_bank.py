"""Query banks: the queries that a view is read with, by the view's size."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from encoders.positions import resize_grid
from mhc import Described

Unknown = Literal["error", "interpolate"]


class QueryBank(Described):
    """One learned bank [q, d] for each side of square views (arXiv 2601.20552: 256 at 1024 pixels, 144 at 768).

    A bank stands under its side alone: a view that is not square is an unknown one, whatever its area. With
    `unknown="interpolate"` an unknown view takes the bank nearest in area, resized as a picture of sqrt(q) x sqrt(q)
    to as many queries a pixel, rows and columns apart; that is (H / stride) x (W / stride) where q = (side / stride)^2.

    Args:
        width: d.
        counts: side of the view in pixels -> q; None for q = m = (side / stride)^2.
        stride: side in pixels of the square that a visual token stands for.
        unknown: "error", or "interpolate" for views of other sizes.
        std: of the normal values that queries start from; the paper gives none, 0.02 is that of the language model's
            embedding, whose place they take.

    Raises:
        ValueError: no counts, a size or count out of range, a count that is no square where banks are interpolated.
    """

    def __init__(
        self,
        *,
        width: int,
        counts: dict[int, int | None],
        stride: int = 64,
        unknown: Unknown = "error",
        std: float = 0.02,
    ) -> None:
        super().__init__()
        if unknown not in ("error", "interpolate"):
            raise ValueError(f"unknown must be 'error' or 'interpolate', got {unknown!r}")
        if width < 1 or stride < 1:
            raise ValueError(f"width and stride must be at least 1, got {width} and {stride}")
        if not counts:
            raise ValueError("counts must name at least one view, such as {1024: 256}")
        self.width, self.stride, self.unknown, self.std = width, stride, unknown, std
        self.counts = {side: _resolved(side, count, stride) for side, count in counts.items()}
        if unknown == "interpolate":
            for side in self.counts:
                self._grid(side)
        self.banks = self._make()
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set every query to normal values of `std`."""
        for bank in self.banks.parameters():
            nn.init.normal_(bank, std=self.std)

    def count(self, size: tuple[int, int]) -> int:
        """How many queries a view of (height, width) in pixels has.

        Raises:
            ValueError: as `forward`.
        """
        return self.counts[size[0]] if self._knows(size) else math.prod(self._interpolated_grid(size))

    def forward(self, size: tuple[int, int]) -> Tensor:
        """The queries [q, d] of a view of (height, width) in pixels.

        Raises:
            ValueError: a size without a bank, unless unknown sizes interpolate; one that the stride does not divide.
        """
        if self._knows(size):
            return self._bank(size[0])
        return self._resized(self._nearest(size), self._interpolated_grid(size))

    def _make(self) -> nn.Module:
        return nn.ParameterDict(
            {str(side): nn.Parameter(torch.empty(count, self.width)) for side, count in self.counts.items()}
        )

    def _bank(self, side: int) -> Tensor:
        return getattr(self.banks, str(side))

    def _knows(self, size: tuple[int, int]) -> bool:
        height, width = size
        if height == width and height in self.counts:
            return True
        if self.unknown == "error":
            known = ", ".join(f"{side}x{side}" for side in self.counts)
            raise ValueError(
                f"no query bank for a view of {height}x{width} pixels, there are {known}: add it to counts, or set "
                "unknown to 'interpolate'"
            )
        if min(size) < 1 or height % self.stride or width % self.stride:
            raise ValueError(f"a view of {height}x{width} pixels is not divisible by the stride {self.stride}")
        return False

    def _nearest(self, size: tuple[int, int]) -> int:
        area = math.prod(size)

        def distance(side: int) -> tuple[float, int]:
            # of two that are equally far the larger, which has more to give
            return max(area, side**2) / min(area, side**2), -side

        return min(self.counts, key=distance)

    def _interpolated_grid(self, size: tuple[int, int]) -> tuple[int, int]:
        side = self._nearest(size)
        rows, columns = (max(1, round(self._grid(side) * length / side)) for length in size)
        return rows, columns

    def _grid(self, side: int) -> int:
        count = self.counts[side]
        root = math.isqrt(count)
        if root**2 != count:
            raise ValueError(
                f"the {count} queries of views of {side} pixels are no square and cannot be interpolated: take "
                f"{root**2} or {(root + 1) ** 2}, or a QueryBank with unknown 'error'"
            )
        return root

    def _resized(self, side: int, grid: tuple[int, int]) -> Tensor:
        root = self._grid(side)
        return resize_grid(self._bank(side).view(1, root, root, self.width), grid).flatten(0, 2)


class FixedQueryBank(QueryBank):
    """Queries that nothing trains, kept as buffers under the names that `QueryBank` has its parameters.

    They are normal values of a seed rather than sinusoids: drawn as learned queries start, so that the two differ in
    training alone, and without a picture of the page that learned queries would have to find. The same seed gives the
    same queries on every device.

    Args:
        width: d.
        counts: side of the view in pixels -> q; None for q = m = (side / stride)^2.
        stride: side in pixels of the square that a visual token stands for.
        unknown: "error", or "interpolate" for views of other sizes.
        std: of the normal values.
        seed: of their generator.

    Raises:
        ValueError: what `QueryBank` refuses.
    """

    def __init__(
        self,
        *,
        width: int,
        counts: dict[int, int | None],
        stride: int = 64,
        unknown: Unknown = "error",
        std: float = 0.02,
        seed: int = 0,
    ) -> None:
        self._seed = seed
        super().__init__(width=width, counts=counts, stride=stride, unknown=unknown, std=std)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the queries again from their seed."""
        generator = torch.Generator().manual_seed(self._seed)
        for side, count in self.counts.items():
            drawn = torch.randn(count, self.width, generator=generator, dtype=torch.float64, device="cpu")
            self._bank(side).copy_(self.std * drawn)

    def _make(self) -> nn.Module:
        banks = nn.Module()
        for side, count in self.counts.items():
            banks.register_buffer(str(side), torch.empty(count, self.width))
        return banks


class InterpolatedQueryBank(QueryBank):
    """One learned bank, that of the view `base`; those of all other views are bicubic interpolations of it.

    Args:
        width: d.
        counts: side of the view in pixels -> q; None for q = m = (side / stride)^2. All are squares.
        base: side of the view whose bank is learned, one of `counts`.
        stride: side in pixels of the square that a visual token stands for.
        unknown: "error", or "interpolate" for views that `counts` does not name.
        std: of the normal values that the bank starts from.

    Raises:
        ValueError: what `QueryBank` refuses, a base that is not in `counts`, a count that is no square.
    """

    def __init__(
        self,
        *,
        width: int,
        counts: dict[int, int | None],
        base: int,
        stride: int = 64,
        unknown: Unknown = "error",
        std: float = 0.02,
    ) -> None:
        if base not in counts:
            raise ValueError(f"base must be a side that counts names, {', '.join(map(str, counts))}, got {base}")
        self._base = base
        super().__init__(width=width, counts=counts, stride=stride, unknown=unknown, std=std)

    def _make(self) -> nn.Module:
        for side in self.counts:
            self._grid(side)
        return nn.ParameterDict({str(self._base): nn.Parameter(torch.empty(self.counts[self._base], self.width))})

    def _bank(self, side: int) -> Tensor:
        if side == self._base:
            return super()._bank(side)
        return self._resized(self._base, (self._grid(side), self._grid(side)))

    def _nearest(self, size: tuple[int, int]) -> int:
        return self._base


def _resolved(side: int, count: int | None, stride: int) -> int:
    if side < 1:
        raise ValueError(f"counts must be by sides of at least 1 pixel, got {side}")
    if count is None:
        if side % stride:
            raise ValueError(
                f"counts[{side}] is None, but the stride {stride} does not divide {side}: give a number of queries"
            )
        return (side // stride) ** 2
    if count < 1:
        raise ValueError(f"counts[{side}] must be at least 1, or None for one query a visual token, got {count}")
    return count
