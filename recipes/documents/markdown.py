"""Blocks -> the Markdown that a page is to be read as: HTML tables, LaTeX formulas; and with labels and boxes."""

from collections.abc import Sequence
from functools import singledispatch
from html import escape

from encoders.grounding import Box, format_grounding
from recipes.documents.tree import (
    Block,
    Caption,
    DisplayFormula,
    Emphasis,
    Footnote,
    Inline,
    InlineFormula,
    Listing,
    NoteMark,
    Paragraph,
    Table,
    Title,
    Words,
)

# what a region is called in a page's text, as OCR 2 does it
LABELS: dict[type[Block], str] = {
    Title: "title",
    Paragraph: "text",
    Listing: "text",
    DisplayFormula: "equation",
    Table: "table",
    Caption: "table_caption",
    Footnote: "footnote",
}


@singledispatch
def write(block: Block | Inline) -> str:
    """A block, or a part of a line, as Markdown.

    Raises:
        TypeError: it is not part of the text, or of an unknown kind.
    """
    raise TypeError(f"{type(block).__name__} has no Markdown form: register one with write.register")


@write.register
def _(block: Words) -> str:
    return block.text


@write.register
def _(block: Emphasis) -> str:
    return f"*{block.text}*"


@write.register
def _(block: InlineFormula) -> str:
    return f"${block.expression.latex()}$"


@write.register
def _(block: NoteMark) -> str:
    return f"[^{block.number}]"


@write.register
def _(block: Title) -> str:
    return f"{'#' * block.level} {block.text}"


@write.register
def _(block: Paragraph) -> str:
    text = ""
    for part in block.parts:
        text += (" " if text and not isinstance(part, NoteMark) else "") + write(part)
    return text


@write.register
def _(block: Listing) -> str:
    heads = (f"{number}." if block.numbered else "-" for number in range(1, len(block.items) + 1))
    return "\n".join(f"{head} {item}" for head, item in zip(heads, block.items, strict=True))


@write.register
def _(block: DisplayFormula) -> str:
    return f"$$\n{block.expression.latex()}\n$$"


@write.register
def _(block: Table) -> str:
    rows = []
    for row in block.rows:
        cells = ""
        for cell in row:
            spans = f' colspan="{cell.columns}"' * (cell.columns > 1) + f' rowspan="{cell.rows}"' * (cell.rows > 1)
            cells += f"<td{spans}>{escape(cell.text, quote=False)}</td>"
        rows.append(f"<tr>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"


@write.register
def _(block: Caption) -> str:
    return block.text


@write.register
def _(block: Footnote) -> str:
    return f"[^{block.number}]: {block.text}"


def markdown(blocks: Sequence[Block]) -> str:
    """The text of a page whose blocks are read in this order."""
    return "\n\n".join(map(write, blocks))


def grounded(blocks: Sequence[tuple[Block, Box]], width: float, height: float) -> str:
    """The same text, each block behind its label and box; `encoders.grounding.strip_grounding` leaves the Markdown."""
    return "\n\n".join(
        f"{format_grounding([(LABELS[type(block)], [box])], width, height)}\n{write(block)}" for block, box in blocks
    )
