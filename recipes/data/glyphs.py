"""Glyphs of three by five dots, pages of them, and the reading tasks that pages are drawn for."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from numpy.polynomial import Polynomial
from torch import Tensor

from mhc import Described

EMPTY = -1  # a cell without a glyph

# rows of three dots, top to bottom
_DOTS = {
    "0": "111101101101111", "1": "010110010010111", "2": "111001111100111", "3": "111001111001111",
    "4": "101101111001001", "5": "111100111001111", "6": "111100111101111", "7": "111001001010010",
    "8": "111101111101111", "9": "111101111001111", "a": "010101111101101", "b": "110101110101110",
    "c": "011100100100011", "d": "110101101101110", "e": "111100110100111", "f": "111100110100100",
    "g": "011100101101011", "h": "101101111101101", "i": "111010010010111", "j": "001001001101010",
    "k": "101101110101101", "l": "100100100100111", "m": "101111111101101", "n": "110101101101101",
    "o": "010101101101010", "p": "110101110100100", "q": "010101101111011", "r": "110101110110101",
    "s": "011100010001110", "t": "111010010010010", "u": "101101101101111", "v": "101101101101010",
    "w": "101101111111101", "x": "101101010101101", "y": "101101010010010", "z": "111001010100111",
    " ": "000000000000000",
}  # fmt: skip
DIGITS, LETTERS = "0123456789", "abcdefghijklmnopqrstuvwxyz"


def bitmaps(alphabet: str, side: int) -> Tensor:
    """Ink of each glyph of the alphabet and, last, of none: [len + 1, side, side], 1 where there is ink.

    A dot is side // 6 pixels wide, and the glyph stands in the middle.

    Raises:
        ValueError: a side below 6 pixels, or a character that has no glyph.
    """
    if side < 6:
        raise ValueError(f"a glyph takes at least 6 pixels, got {side}")
    unknown = [character for character in alphabet if character not in _DOTS]
    if unknown:
        raise ValueError(f"there is no glyph for {unknown[0]!r}")
    ink = torch.zeros(len(alphabet) + 1, side, side)
    dot = side // 6
    top, left = (side - 5 * dot) // 2, (side - 3 * dot) // 2
    for glyph, character in zip(ink, alphabet, strict=False):
        dots = torch.tensor([float(bit) for bit in _DOTS[character]]).view(5, 3)
        glyph[top : top + 5 * dot, left : left + 3 * dot] = dots.repeat_interleave(dot, 0).repeat_interleave(dot, 1)
    return ink


class GlyphTask(Described, ABC):
    """What stands on a page of rows x rows cells, and what is read of it.

    Attributes:
        alphabet: the glyphs, by number.
        rows: cells on a side.
        levels: how far the task grows; pages of the last level are the whole task.
        longest: most glyphs of an answer.
    """

    alphabet: str
    rows: int
    levels: int
    longest: int

    #: share of `deciding` places that are read right at best without the order; NaN where it is not known
    blind: float = math.nan

    def prepare(self) -> None:
        """Read what the task needs from disk, once."""

    def deciding(self, length: int) -> Sequence[int]:
        """Places in an answer of so many glyphs that follow from the order alone, and not from what was read before."""
        return ()

    @abstractmethod
    def page(self, level: int, generator: torch.Generator, held_out: bool = False) -> tuple[Tensor, Tensor]:
        """Draw a page: (glyph of each cell [rows * rows], -1 where there is none; the answer's glyphs).

        Args:
            level: from 1 to `levels`.
            generator: of everything that is drawn.
            held_out: from what is kept for validation, where the task has a stock that could run out.
        """


class ScatteredDigits(GlyphTask):
    """Digits in random cells, read row by row: where a token is, is all that the order depends on.

    A page of level k has k digits; letters among them are not read.

    Args:
        rows: cells on a side.
        digits: on a page of the last level.
        distractors: letters on every page.

    Raises:
        ValueError: a count below 1 (0 for distractors), or more glyphs than cells.
    """

    def __init__(self, *, rows: int = 4, digits: int = 12, distractors: int = 0) -> None:
        super().__init__()
        if min(rows, digits) < 1 or distractors < 0:
            raise ValueError(
                f"rows and digits must be at least 1 and distractors 0, got {rows}, {digits}, {distractors}"
            )
        if digits + distractors > rows**2:
            raise ValueError(f"{digits} digits and {distractors} distractors do not fit into {rows} x {rows} cells")
        self.rows, self.distractors = rows, distractors
        self.levels = self.longest = digits
        self.alphabet = DIGITS + (LETTERS if distractors else "")

    def page(self, level: int, generator: torch.Generator, held_out: bool = False) -> tuple[Tensor, Tensor]:
        """Draw a page: (cells [rows * rows], the digits in raster order [level])."""
        places = torch.randperm(self.rows**2, generator=generator)
        cells = torch.full((self.rows**2,), EMPTY)
        answer = torch.randint(len(DIGITS), (level,), generator=generator)
        cells[places[:level].sort().values] = answer
        if self.distractors:
            letters = torch.randint(len(LETTERS), (self.distractors,), generator=generator)
            cells[places[level : level + self.distractors]] = len(DIGITS) + letters
        return cells, answer


class RankedColumns(GlyphTask):
    """Columns whose first glyph is a rank, read by rank: the order is written on the page, not given by position.

    A page of level k has k columns at random places, ranked 0 to k - 1. What is read are the digits below the ranks,
    from top to bottom, column after column in the order of their ranks. Other cells of a column are empty.

    Args:
        rows: cells on a side, of which one row is the ranks'.
        columns: on a page of the last level, at most 10.
        digits: below each rank; None fills the column.
        gaps: ranks are any different digits, to be compared, and not 0 to k - 1, which can be looked for.

    Raises:
        ValueError: a count out of range.
    """

    def __init__(self, *, rows: int = 4, columns: int = 4, digits: int | None = None, gaps: bool = False) -> None:
        super().__init__()
        digits = rows - 1 if digits is None else digits
        if not 1 <= columns <= min(rows, len(DIGITS)):
            raise ValueError(f"columns must be from 1 to rows = {rows} and to 10, got {columns}")
        if not 1 <= digits <= rows - 1:
            raise ValueError(f"digits must be from 1 to rows - 1 = {rows - 1}, got {digits}")
        self.rows, self.digits, self.gaps = rows, digits, gaps
        self.levels, self.longest, self.alphabet = columns, columns * digits, DIGITS

    @property
    def blind(self) -> float:
        """Share of columns' first digits, but the last one's, that are right if the digit guessed is the commonest.

        Of k columns that are left the commonest first digit is that of E[largest count of k draws] / k of them.
        """
        left = range(2, self.levels + 1)
        return sum(_largest_count(k) / k for k in left) / len(left) if left else math.nan

    def deciding(self, length: int) -> range:
        """The first digits of all columns but the last, which is the one that is left."""
        return range(0, length - self.digits, self.digits)

    def page(self, level: int, generator: torch.Generator, held_out: bool = False) -> tuple[Tensor, Tensor]:
        """Draw a page: (cells [rows * rows], the digits by rank [level * digits])."""
        cells = torch.full((self.rows, self.rows), EMPTY)
        places = torch.randperm(self.rows, generator=generator)[:level]
        ranks = (
            torch.randperm(len(DIGITS), generator=generator)[:level].sort().values if self.gaps else torch.arange(level)
        )
        cells[0, places] = ranks
        answer = torch.randint(len(DIGITS), (level, self.digits), generator=generator)
        if self.digits == self.rows - 1:
            cells[1:, places] = answer.T
        else:
            order = torch.rand(level, self.rows - 1, generator=generator).argsort(1)
            cells[1 + order[:, : self.digits].sort(1).values.T, places] = answer.T
        return cells.flatten(), answer.flatten()


def _largest_count(draws: int) -> float:
    """Expected count of the digit that is drawn most often."""
    expected = 0.0
    for most in range(draws):
        # k! [x^k] (sum_j x^j / j!)^10: the draws in which no digit comes more often than `most`
        series = Polynomial([1.0])
        for _ in DIGITS:
            series = (series * Polynomial([1 / math.factorial(j) for j in range(most + 1)])).cutdeg(draws)
        ways = math.factorial(draws) * (series.coef[draws] if len(series.coef) > draws else 0.0)
        expected += 1 - ways / len(DIGITS) ** draws
    return expected
