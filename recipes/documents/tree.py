"""The tree of a document's page: blocks of inline parts, in columns, with what stands around them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from recipes.documents.formula import Expression


@dataclass(frozen=True)
class Words:
    """Plain text; its words are divided by single spaces."""

    text: str


@dataclass(frozen=True)
class Emphasis:
    """Words in italics."""

    text: str


@dataclass(frozen=True)
class InlineFormula:
    """A formula within a line."""

    expression: Expression


@dataclass(frozen=True)
class NoteMark:
    """The raised number of a footnote, at the end of the word before it."""

    number: int


Inline = Words | Emphasis | InlineFormula | NoteMark


@dataclass(frozen=True)
class Block:
    """A piece of a page with a box of its own."""


@dataclass(frozen=True)
class Title(Block):
    """A heading; level 1 is the page's."""

    text: str
    level: int = 1


@dataclass(frozen=True)
class Paragraph(Block):
    """Running text; one of plain words alone may be cut where the page ends."""

    parts: tuple[Inline, ...]


@dataclass(frozen=True)
class Listing(Block):
    """Items with bullets, or with numbers from 1."""

    items: tuple[str, ...]
    numbered: bool = False


@dataclass(frozen=True)
class DisplayFormula(Block):
    """A formula on a line of its own."""

    expression: Expression


@dataclass(frozen=True)
class Cell:
    """A cell of a table and how many columns and rows it takes."""

    text: str
    columns: int = 1
    rows: int = 1


@dataclass(frozen=True)
class Table(Block):
    """Rows of the cells that begin in them.

    Args:
        rows: at least one; the first is the head.
        columns: of the grid.
        lines: whether all cells are ruled, or only the head.
    """

    rows: tuple[tuple[Cell, ...], ...]
    columns: int
    lines: bool = True


@dataclass(frozen=True)
class Caption(Block):
    """What stands above a table."""

    text: str


@dataclass(frozen=True)
class RunningHead(Block):
    """The line above the page; not part of its text."""

    text: str


@dataclass(frozen=True)
class RunningFoot(Block):
    """The line below the page; not part of its text."""

    text: str


@dataclass(frozen=True)
class PageNumber(Block):
    """The page's number; not part of its text."""

    number: int


@dataclass(frozen=True)
class Rank(Block):
    """The number at the head of a column that says when it is read; not part of the text."""

    number: int


@dataclass(frozen=True)
class Footnote(Block):
    """A note at the foot of the page."""

    number: int
    text: str


@dataclass(frozen=True)
class Column:
    """Blocks from top to bottom, and when the column is read among the others, from 0."""

    blocks: tuple[Block, ...]
    order: int


@dataclass(frozen=True)
class Style:
    """How a page looks.

    Args:
        width: of the page, in pixels.
        height: of the page, in pixels.
        margin: on all sides, in pixels.
        gutter: between columns, in pixels.
        text_size: in pixels.
        font: a family that typst carries.
        justified: both edges straight, words divided at line ends.
        indent: of a paragraph's first line, in pixels.
        leading: between lines, in pixels.
        gap: between blocks, in pixels.
        sidebar_share: of the width that the sidebar takes.
        sidebar_left: on which side it stands.
    """

    width: int
    height: int
    margin: float
    gutter: float
    text_size: float
    font: str = "Libertinus Serif"
    justified: bool = True
    indent: float = 0.0
    leading: float = 1.0
    gap: float = 5.0
    sidebar_share: float = 0.3
    sidebar_left: bool = False


@dataclass(frozen=True)
class Document:
    """A page: spanning blocks, then the columns, with a sidebar beside and footnotes below.

    It is read in this order: spanning blocks, columns by their order, sidebar, footnotes.
    """

    style: Style
    columns: tuple[Column, ...]
    spanning: tuple[Block, ...] = ()
    sidebar: tuple[Block, ...] = ()
    footnotes: tuple[Footnote, ...] = ()
    above: tuple[Block, ...] = field(default=())
    below: tuple[Block, ...] = field(default=())

    def blocks(self) -> Iterator[Block]:
        """All blocks as they are read; what is not part of the text comes last."""
        yield from self.spanning
        for column in sorted(self.columns, key=lambda column: column.order):
            yield from column.blocks
        yield from self.sidebar
        yield from self.footnotes
        yield from self.above
        yield from self.below
