"""The truth of a page is what is printed on it, where it is printed."""

import json
import re
import unicodedata
from pydoc_data.topics import topics

import numpy as np
import pypdfium2
import pytest
from lxml import html
from pypdfium2 import raw

from encoders.grounding import parse_grounding, strip_grounding
from recipes.documents import Contents, Corpus, Generator
from recipes.documents.omnidocbench import has_spans
from recipes.documents.tree import (
    Caption,
    DisplayFormula,
    Footnote,
    InlineFormula,
    Listing,
    PageNumber,
    Paragraph,
    Rank,
    RunningFoot,
    RunningHead,
    Table,
    Title,
)
from recipes.documents.typst import compile_pdf, read_spots, source

CORPUS = Corpus("\n".join(topics.values()))
WIDTH, HEIGHT = 340, 440
MANY = Contents(
    text_size=9,
    running=0.7,
    sidebar=0.5,
    footnotes=0.5,
    table=0.25,
    formula=0.15,
    listing=0.2,
    heading=0.15,
    inline=0.4,
)
COUNT = 24


@pytest.fixture(scope="module")
def generator():
    return Generator(CORPUS, 5, WIDTH, HEIGHT, MANY)


@pytest.fixture(scope="module")
def pages(generator):
    return generator.pages(range(COUNT))


@pytest.fixture(scope="module")
def layers(generator):
    pdf = pypdfium2.PdfDocument(generator.pdf(range(COUNT)))
    return [Layer(page) for page in pdf]


def letters(text: str) -> str:
    """Word characters alone: hyphens at line ends, bullets and marks vanish."""
    return re.sub(r"\W|_", "", unicodedata.normalize("NFKC", text))


class Layer:
    """The characters of a page of the PDF and where they stand; pdfium's own search in a box loses some at hyphens."""

    def __init__(self, page) -> None:
        text = page.get_textpage()
        boxes = [text.get_charbox(place) for place in range(text.count_chars())]
        self.centres = [((left + right) / 2, HEIGHT - (low + high) / 2) for left, low, right, high in boxes]
        self.letters = [chr(raw.FPDFText_GetUnicode(text, place)) for place in range(text.count_chars())]

    def inside(self, box) -> str:
        left, top, right, bottom = box
        return "".join(
            letter
            for letter, (x, y) in zip(self.letters, self.centres, strict=True)
            if left <= x <= right and top <= y <= bottom
        )


def words_of(block) -> str | None:
    """The text of a block as its author meant it, None where it has formulas."""
    if isinstance(block, Paragraph):
        if any(isinstance(part, InlineFormula) for part in block.parts):
            return None
        return " ".join(getattr(part, "text", None) or str(part.number) for part in block.parts)
    if isinstance(block, Listing):
        return " ".join(f"{number + 1} {item}" if block.numbered else item for number, item in enumerate(block.items))
    if isinstance(block, Footnote):
        return f"{block.number} {block.text}"
    if isinstance(block, (PageNumber, Rank)):
        return str(block.number)
    return None if isinstance(block, (Table, DisplayFormula)) else block.text


def test_text_of_the_pdf_inside_a_box_is_the_blocks_text(layers, pages):
    compared = set()
    for number, page in enumerate(pages):
        for placed in page.blocks:
            text = words_of(placed.block)
            if text is None:
                continue
            found = layers[number].inside(placed.box)
            assert letters(found) == letters(text), (number, placed)
            compared.add(type(placed.block))
    assert compared == {Title, Paragraph, Listing, Footnote, Caption, RunningHead, RunningFoot, PageNumber}


def test_cells_of_the_pdf_are_the_tables_cells(layers, pages):
    tables = [
        (number, placed)
        for number, page in enumerate(pages)
        for placed in page.blocks
        if isinstance(placed.block, Table)
    ]
    assert sum(has_spans(placed.block) for _, placed in tables) > 5
    for number, placed in tables:
        found = layers[number].inside(placed.box)
        cells = [cell.text for row in placed.block.rows for cell in row]
        assert sorted(letters(found)) == sorted(letters("".join(cells)))


def test_ink_lies_in_the_boxes_and_every_box_has_some(generator, pages):
    documents = generator.documents(range(COUNT))
    pdf = pypdfium2.PdfDocument(compile_pdf(source(documents)))
    seen = 0
    for number, page in enumerate(pages):
        ink = np.asarray(page.image) < 200
        inside = np.zeros_like(ink)
        for placed in page.blocks:
            left, top, right, bottom = placed.box
            rows, columns = slice(int(top) - 1, int(bottom) + 2), slice(int(left) - 1, int(right) + 2)
            inside[rows, columns] = True
            assert ink[rows, columns].any(), (number, placed)
            # the box is no larger than what it holds; ragged lines may end a word before its edge
            down, across = (np.flatnonzero(ink[rows, columns].any(axis)) for axis in (1, 0))
            ragged = bottom - top > 1.7 * MANY.text_size
            assert across[0] <= 6 + page.document.style.indent, (number, placed)
            assert down[0] <= 6, (number, placed)
            assert ink[rows, columns].shape[0] - down[-1] <= 8, (number, placed)
            assert ink[rows, columns].shape[1] - across[-1] <= (60 if ragged else 6), (number, placed)
            seen += 1
        # a short rule above footnotes belongs to none
        outside = ink & ~inside
        rows = np.flatnonzero(outside.any(1))
        notes = any(isinstance(placed.block, Footnote) for placed in page.blocks)
        assert len(rows) <= 2 * notes, (number, rows)
        assert len(read_spots(pdf, number + 1)) == len(page.blocks)
    assert seen > 10 * COUNT


def test_reading_order_is_column_by_column(pages):
    for page in pages:
        body = [placed for placed in page.text if not isinstance(placed.block, Footnote)]
        if page.document.sidebar:
            continue
        start = 1 if page.document.spanning and isinstance(body[0].block, Title) and body[0].block.level == 1 else 0
        for first, second in zip(body[start:], body[start + 1 :], strict=False):
            below = second.box[1] >= first.box[3] - 0.01
            right = second.box[0] > first.box[0] and second.box[1] < first.box[3]
            assert below or right


def test_footnotes_and_sidebars_come_last(pages):
    assert any(page.document.sidebar for page in pages)
    assert any(page.document.footnotes for page in pages)
    for page in pages:
        kinds = [isinstance(placed.block, Footnote) for placed in page.text]
        assert kinds == sorted(kinds)
        notes = [placed.block.number for placed in page.text if isinstance(placed.block, Footnote)]
        assert notes == list(range(1, len(notes) + 1))
        for number in notes:
            assert page.markdown.count(f"[^{number}]: ") == 1


def test_columns_are_one_to_three(pages):
    assert {len(page.document.columns) for page in pages} == {1, 2, 3}


def test_grounding_without_marks_is_the_markdown(pages):
    for page in pages:
        assert strip_grounding(page.grounded) == page.markdown
        found, malformed = parse_grounding(page.grounded, WIDTH, HEIGHT)
        assert not malformed
        assert len(found) == len(page.text)
        for region, placed in zip(found, page.text, strict=True):
            assert np.allclose(region.boxes[0], placed.box, atol=HEIGHT / 1990)


def test_tables_are_whole_grids(pages):
    tables = [placed.block for page in pages for placed in page.blocks if isinstance(placed.block, Table)]
    for table in tables:
        taken = {}
        found = html.fromstring(page_html(table)).findall(".//tr")
        assert len(found) == len(table.rows)
        for row, element in enumerate(found):
            column = 0
            for cell in element.findall("td"):
                while (row, column) in taken:
                    column += 1
                for y in range(int(cell.get("rowspan", 1))):
                    for x in range(int(cell.get("colspan", 1))):
                        assert (row + y, column + x) not in taken
                        taken[row + y, column + x] = cell
        assert set(taken) == {(y, x) for y in range(len(table.rows)) for x in range(table.columns)}


def page_html(table) -> str:
    from recipes.documents.markdown import write

    return write(table)


def test_record_is_what_the_benchmark_reads(pages):
    record = json.loads(json.dumps(pages[0].record("a.png", 3)))
    assert record["page_info"] | {"page_attribute": None} == {
        "page_no": 3,
        "height": HEIGHT,
        "width": WIDTH,
        "image_path": "a.png",
        "page_attribute": None,
    }
    for page in pages:
        found = page.record("page.png")["layout_dets"]
        orders = [block["order"] for block in found if block["order"] is not None]
        assert orders == list(range(1, len(orders) + 1))
        for block in found:
            unordered = block["category_type"] in ("header", "footer", "page_number", "page_footnote", "abandon")
            assert (block["order"] is None) == unordered
            assert len(block["poly"]) == 8
            assert ("html" in block) == (block["category_type"] == "table")
            assert ("latex" in block) == (block["category_type"] == "equation_isolated")
            assert ("text" in block) == (block["category_type"] not in ("table", "equation_isolated"))
            for x, y in zip(block["poly"][::2], block["poly"][1::2], strict=True):
                assert 0 <= x <= WIDTH
                assert 0 <= y <= HEIGHT
