"""A page's truth as a record of OmniDocBench's JSON (arXiv 2412.07626)."""

from functools import singledispatch
from typing import TYPE_CHECKING, Any

from recipes.documents.markdown import write
from recipes.documents.tree import (
    Block,
    Caption,
    DisplayFormula,
    Document,
    Footnote,
    Listing,
    PageNumber,
    Paragraph,
    Rank,
    RunningFoot,
    RunningHead,
    Table,
    Title,
)

if TYPE_CHECKING:
    from recipes.documents.generate import Page

CATEGORIES: dict[type[Block], str] = {
    Title: "title",
    Paragraph: "text_block",
    Listing: "text_block",
    DisplayFormula: "equation_isolated",
    Table: "table",
    Caption: "table_caption",
    Footnote: "page_footnote",
    RunningHead: "header",
    RunningFoot: "footer",
    PageNumber: "page_number",
    Rank: "abandon",
}
# what the benchmark gives no place in the order of reading
UNORDERED = (Footnote, RunningHead, RunningFoot, PageNumber, Rank)
LAYOUTS = {1: "single_column", 2: "double_column", 3: "three_column"}


@singledispatch
def content(block: Block, language: str) -> dict[str, Any]:
    """What a record says of a block beside its place: its Markdown, unless its kind has more to say."""
    return _text(write(block), language)


@content.register(Title)
@content.register(RunningHead)
@content.register(RunningFoot)
def _(block: Title | RunningHead | RunningFoot, language: str) -> dict[str, Any]:
    return _text(block.text, language)


@content.register(PageNumber)
@content.register(Rank)
def _(block: PageNumber | Rank, language: str) -> dict[str, Any]:
    return _text(str(block.number), language)


def _text(text: str, language: str) -> dict[str, Any]:
    attribute = {"text_language": f"text_{language}", "text_background": "white", "text_rotate": "normal"}
    return {"text": text, "attribute": attribute}


@content.register
def _(block: DisplayFormula, language: str) -> dict[str, Any]:
    return {"latex": write(block), "attribute": {"formula_type": "print"}}


@content.register
def _(block: Table, language: str) -> dict[str, Any]:
    attribute = {
        "table_layout": "horizontal",
        "with_span": has_spans(block),
        "line": "full_line" if block.lines else "less_line",
        "language": f"table_{language[:2]}",
        "include_equation": False,
        "include_background": False,
        "include_photo": False,
        "with_structured_text": False,
    }
    return {"html": write(block), "attribute": attribute}


def has_spans(table: Table) -> bool:
    """Whether a cell takes more than one place."""
    return any(cell.columns > 1 or cell.rows > 1 for row in table.rows for cell in row)


def record(page: "Page", image: str, number: int = 0, language: str = "english") -> dict[str, Any]:
    """The record of a page.

    Args:
        page: with its blocks' places.
        image: name of its file.
        number: of the page.
        language: as the benchmark calls it.
    """
    found, order = [], 0
    for placed in page.blocks:
        ordered = not isinstance(placed.block, UNORDERED)
        order += ordered
        found.append(
            {
                "category_type": CATEGORIES[type(placed.block)],
                "poly": [round(value, 3) for point in placed.corners for value in point],
                "ignore": False,
                "order": order if ordered else None,
                "anno_id": len(found),
                **content(placed.block, language),
            }
        )
    return {
        "layout_dets": found,
        "extra": {"relation": []},
        "page_info": {
            "page_no": number,
            "height": page.document.style.height,
            "width": page.document.style.width,
            "image_path": image,
            "page_attribute": {
                "data_source": "synthetic",
                "language": language,
                "layout": _layout(page.document),
                "special_issue": _issues(page),
            },
        },
    }


def _layout(document: Document) -> str:
    return "other_layout" if document.sidebar else LAYOUTS.get(len(document.columns), "other_layout")


def _issues(page: "Page") -> list[str]:
    spans = any(isinstance(placed.block, Table) and has_spans(placed.block) for placed in page.blocks)
    return ["table_span"] * spans + ["fuzzy_scan"] * page.degraded
