"""Pages of letters with more or less language in them: what a decoder knows before it looks."""

import torch
from torch import Tensor

from recipes.data.glyphs import LETTERS, GlyphTask
from recipes.data.text_files import matching_files, python_files, read_texts

HELD_OUT = 0.1  # of the text, at its end


class RandomLetters(GlyphTask):
    """Letters and spaces drawn alike, one after the other: no language at all.

    A page of level k is filled to k / levels of its cells, row by row.

    Args:
        rows: cells on a side.
        levels: steps in which pages fill up.

    Raises:
        ValueError: a size out of range.
    """

    alphabet = LETTERS + " "

    def __init__(self, *, rows: int = 8, levels: int = 8) -> None:
        super().__init__()
        if rows < 1 or not 1 <= levels <= rows**2:
            raise ValueError(f"rows must be at least 1 and levels from 1 to rows x rows, got {rows} and {levels}")
        self.rows, self.levels, self.longest = rows, levels, rows**2

    def page(self, level: int, generator: torch.Generator, held_out: bool = False) -> tuple[Tensor, Tensor]:
        """Draw a page: (cells [rows * rows], its letters in order)."""
        letters = self._letters(self.longest * level // self.levels, generator, held_out)
        blank = torch.full((self.longest - len(letters),), self.alphabet.index(" "))
        return torch.cat([letters, blank]), letters

    def _letters(self, count: int, generator: torch.Generator, held_out: bool) -> Tensor:
        return torch.randint(len(self.alphabet), (count,), generator=generator)


class RunningText(RandomLetters):
    """Consecutive letters of real text, wrapped without regard to words.

    The text is in small letters, and whatever else stands between words is one space. Training pages are windows of its
    first nine tenths, held-out pages of the last.

    Args:
        rows: cells on a side.
        levels: steps in which pages fill up.
        path: a text file, a folder or a pattern; None is Python's own documentation.

    Raises:
        ValueError: a size out of range; on `prepare`, a text that is missing or too short.
    """

    def __init__(self, *, rows: int = 8, levels: int = 8, path: str | None = None) -> None:
        super().__init__(rows=rows, levels=levels)
        self.path = path
        self._text: Tensor | None = None
        self._words: list[Tensor] = []

    def prepare(self) -> None:
        """Read the text, once.

        Raises:
            ValueError: it is missing, or shorter than twenty pages.
        """
        if self._text is not None:
            return
        files = python_files()[:1] if self.path is None else matching_files(self.path)
        text = "".join(
            character if character in LETTERS else " " for character in "\n".join(read_texts(files)[0]).lower()
        )
        self._text = self._numbers(" ".join(text.split()))
        if len(self._text) < 20 * self.longest:
            raise ValueError(
                f"data.task.path {self.path!r} holds {len(self._text)} letters, but pages of {self.longest} need at "
                f"least {20 * self.longest}"
            )

    def _numbers(self, text: str) -> Tensor:
        # the character after z stands for the space, which comes after z in the alphabet
        return torch.frombuffer(bytearray(text.translate({32: "{"}).encode()), dtype=torch.uint8).long() - ord("a")

    def _letters(self, count: int, generator: torch.Generator, held_out: bool) -> Tensor:
        self.prepare()
        assert self._text is not None
        cut = round(len(self._text) * (1 - HELD_OUT))
        part = self._text[cut:] if held_out else self._text[:cut]
        start = int(torch.randint(len(part) - count + 1, (), generator=generator))
        return part[start : start + count]


class RandomWords(RunningText):
    """The words of a text, drawn one after the other with equal chances: spelling, and no sentences.

    Args:
        rows: cells on a side.
        levels: steps in which pages fill up.
        path: a text file, a folder or a pattern; None is Python's own documentation.

    Raises:
        ValueError: as `RunningText`.
    """

    def prepare(self) -> None:
        """Read the text and part it into its different words, once."""
        if self._text is not None:
            return
        super().prepare()
        assert self._text is not None
        text = "".join(self.alphabet[number] for number in self._text.tolist())
        self._words = [self._numbers(word + " ") for word in sorted(set(text.split()))]

    def _letters(self, count: int, generator: torch.Generator, held_out: bool) -> Tensor:
        self.prepare()
        # the shortest word and its space are two letters, so that these are always enough
        drawn = torch.randint(len(self._words), (count // 2 + 1,), generator=generator)
        return torch.cat([self._words[number] for number in drawn.tolist()])[:count]
