"""Pages from a seed and an index: composed, set, rendered, degraded, with their truth."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import PIL
import pypdfium2
import typst
from PIL import Image

from encoders.grounding import Box
from recipes.documents.compose import Composer
from recipes.documents.degradation import Degradation, Point
from recipes.documents.draws import Draws
from recipes.documents.markdown import grounded, markdown
from recipes.documents.omnidocbench import record
from recipes.documents.options import MODES, Contents
from recipes.documents.text import Corpus
from recipes.documents.tree import Block, Document, PageNumber, Paragraph, Rank, RunningFoot, RunningHead, Words
from recipes.documents.typst import Spot, compile_pdf, read_spots, source

# to be raised with every change of what a page of a seed and an index looks like
VERSION = 1
# pages of a compile: fewer cost more each
TOGETHER = 50
SILENT = (RunningHead, RunningFoot, PageNumber, Rank)


@dataclass(frozen=True)
class Placed:
    """A block and its corners in pixels, from the upper left one with the clock."""

    block: Block
    corners: tuple[Point, Point, Point, Point]

    @property
    def box(self) -> Box:
        """(left, top, right, bottom)."""
        across, down = zip(*self.corners, strict=True)
        return min(across), min(down), max(across), max(down)


@dataclass(frozen=True)
class Page:
    """A page as it is seen and what is to be read on it.

    Attributes:
        document: the tree; typst may have left out blocks that found no room.
        blocks: those on the page, as they are read; what is not part of the text comes last.
        image: grey.
        degraded: whether something was done to it.
    """

    document: Document
    blocks: tuple[Placed, ...]
    image: Image.Image
    degraded: bool = False

    @property
    def text(self) -> tuple[Placed, ...]:
        """The blocks that are part of the text."""
        return tuple(placed for placed in self.blocks if not isinstance(placed.block, SILENT))

    @property
    def markdown(self) -> str:
        """What the page is to be read as."""
        return markdown([placed.block for placed in self.text])

    @property
    def grounded(self) -> str:
        """The same with labels and boxes."""
        return grounded([(placed.block, placed.box) for placed in self.text], *self.image.size)

    def record(self, image: str, number: int = 0) -> dict[str, Any]:
        """The truth as OmniDocBench has it, for an image of that name."""
        return record(self, image, number)


class Generator:
    """Makes the pages of a seed, each by its number, whatever is made beside it.

    Args:
        corpus: of the words.
        seed: of all that is left to chance; a whole number, or another name.
        width: of a page, in pixels.
        height: of a page, in pixels.
        contents: what stands on a page; None is the defaults.
        mode: one of `MODES`.
        degradation: strength of what is done to the image, from 0, nothing, to 1.

    Raises:
        ValueError: an unknown mode, a strength out of range, or a page with no room for its text.
    """

    def __init__(
        self,
        corpus: Corpus,
        seed: int | str = 0,
        width: int = 256,
        height: int = 320,
        contents: Contents | None = None,
        mode: str = "prose",
        degradation: float = 0.0,
    ) -> None:
        contents = contents or Contents()
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if not 0 <= degradation <= 1:
            raise ValueError(f"degradation must be from 0 to 1, got {degradation}")
        if MODES[mode].shuffled and contents.max_columns < 2:
            raise ValueError(f"mode {mode} needs columns: raise contents.max_columns to 2 or more")
        wanted = replace(contents, min_columns=max(contents.min_columns, 2)) if MODES[mode].shuffled else contents
        wanted.most_columns(width, height)
        self.corpus, self.seed, self.width, self.height = corpus, seed, width, height
        self.contents, self.mode, self.degradation = contents, mode, degradation

    @property
    def key(self) -> str:
        """Changes with everything that the pages depend on."""
        told = {
            "version": VERSION,
            "typst": typst.__version__,
            "pdfium": str(pypdfium2.PYPDFIUM_INFO),
            "pillow": PIL.__version__,
            "numpy": np.__version__,
            "corpus": self.corpus.sha256,
            "seed": self.seed,
            "page": [self.width, self.height],
            "contents": asdict(self.contents),
            "mode": self.mode,
            "degradation": self.degradation,
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def documents(self, numbers: Sequence[int]) -> list[Document]:
        """The trees of pages, before it is known what of them finds room."""
        return [
            Composer(
                self.corpus, Draws("page", self.seed, number), self.width, self.height, self.contents, MODES[self.mode]
            ).document()
            for number in numbers
        ]

    def pdf(self, numbers: Sequence[int]) -> bytes:
        """The pages as one PDF, without the marks that tell where blocks are."""
        return compile_pdf(source(self.documents(numbers), spots=False))

    def pages(self, numbers: Sequence[int]) -> list[Page]:
        """Make pages; about fifty at a time cost least each.

        Raises:
            ValueError: a page on which not one block found room.
        """
        found: list[Page] = []
        for start in range(0, len(numbers), TOGETHER):
            found += self._pages(numbers[start : start + TOGETHER])
        return found

    def _pages(self, numbers: Sequence[int]) -> list[Page]:
        documents = self.documents(numbers)
        pdf = pypdfium2.PdfDocument(compile_pdf(source(documents)))
        try:
            return [
                self._page(number, document, pdf[place], read_spots(pdf, place))
                # behind the page that comes first
                for place, (number, document) in enumerate(zip(numbers, documents, strict=True), start=1)
            ]
        finally:
            pdf.close()

    def _page(self, number: int, document: Document, page: pypdfium2.PdfPage, spots: dict[int, Spot]) -> Page:
        degradation = Degradation.draw(
            Draws("degradation", self.seed, number), self.degradation, self.contents.text_size
        )
        blocks = [
            Placed(_kept(block, spots[index].kept), self._corners(spots[index].box, degradation))
            for index, block in enumerate(document.blocks())
            if index in spots
        ]
        blocks.sort(key=lambda placed: isinstance(placed.block, SILENT))
        if not blocks or isinstance(blocks[0].block, SILENT):
            raise ValueError(
                f"page {number} of seed {self.seed} is empty: nothing fits on {self.width} x {self.height} pixels; "
                "make the page larger or lower contents.text_size"
            )
        clean = Image.fromarray(page.render(scale=1, grayscale=True).to_numpy().reshape(self.height, self.width))
        return Page(document, tuple(blocks), degradation(clean), degradation != Degradation())

    def _corners(self, box: Box, degradation: Degradation) -> tuple[Point, Point, Point, Point]:
        left, top, right, bottom = box
        points = ((left, top), (right, top), (right, bottom), (left, bottom))
        first, second, third, fourth = (degradation.moved(point, self.width, self.height) for point in points)
        return first, second, third, fourth


def _kept(block: Block, words: int | None) -> Block:
    if words is None or not isinstance(block, Paragraph):
        return block
    first = block.parts[0]
    assert isinstance(first, Words)
    return replace(block, parts=(Words(" ".join(first.text.split()[:words])),))
