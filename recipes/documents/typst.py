"""A document -> typst's source -> PDF, and where its blocks came to stand.

typst itself decides what fits: it measures each block, leaves out what finds no room, cuts the last paragraph of a
column, and puts an invisible link `block:<number>:<words kept>` over each block that it sets; the links of the PDF are
the boxes.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache, singledispatch
from typing import Any, NamedTuple

import pypdfium2
import typst
from pypdfium2 import raw

from recipes.documents.options import FONTS, LINE
from recipes.documents.tree import (
    Block,
    Caption,
    DisplayFormula,
    Document,
    Emphasis,
    Footnote,
    Inline,
    InlineFormula,
    Listing,
    NoteMark,
    PageNumber,
    Paragraph,
    Rank,
    RunningFoot,
    RunningHead,
    Table,
    Title,
    Words,
)

PRELUDE = """\
#let spot(id, x, y, width, height, kept) = if spots {
  place(top + left, dx: x, dy: y, link("block:" + str(id) + ":" + str(kept), box(width: width, height: height)))
}
#let cut(words, count) = par(words.slice(0, count).join(" "))
#let fitting(words, width, room, height) = {
  let count = calc.max(0, calc.min(words.len() - 1, calc.floor(words.len() * (room / height))))
  while count > 0 and measure(cut(words, count), width: width).height > room {
    count -= calc.max(1, calc.quo(count, 12))
  }
  count
}
// a displayed formula takes all the width it is given, and a paragraph is measured before its lines are stretched
#let extent(content, width) = {
  if content.func() == math.equation { return measure(content) }
  let size = measure(content, width: width)
  let stretched = par.justify and content.func() == par and not content.has("justify")
  if stretched and size.height > 1.7em.to-absolute() { (width: width, height: size.height) } else { size }
}
#let stack(width, room, blocks) = {
  let (down, out, skip) = (0pt, (), false)
  for (number, (id, above, body, middle, binds)) in blocks.enumerate() {
    if skip { skip = false; continue }
    let start = if out.len() == 0 { 0pt } else { down + above }
    if room - start < 1em.to-absolute() { break }
    let (content, kept) = (if type(body) == str { par(body) } else { body }, 0)
    let size = extent(content, width)
    if type(body) == str and start + size.height > room {
      let words = body.split(" ")
      kept = fitting(words, width, room - start, size.height)
      if kept == 0 { continue }
      content = cut(words, kept)
      size = extent(content, width)
    }
    let (more, across) = (0pt, size.width)
    if binds and number + 1 < blocks.len() {
      let (_, next-above, next, ..) = blocks.at(number + 1)
      let line = (width: 0pt, height: 2em.to-absolute())
      let next-size = if type(next) == str { line } else { measure(next, width: width) }
      more = next-above + next-size.height
      across = calc.max(across, next-size.width)
    }
    if start + size.height + more > room or across > width + 0.1pt { skip = binds; continue }
    let shift = if middle { (width - size.width) / 2 } else { 0pt }
    out.push(place(top + left, dx: shift, dy: start, block(width: if middle { size.width } else { width }, content)))
    out.push(spot(id, shift, start, size.width, size.height, kept))
    down = start + size.height
  }
  (down, out.join())
}
#let area(x, y, width, height, content) = place(top + left, dx: x, dy: y, box(width: width, height: height, content))
#let runner(id, x, y, width, side, body) = {
  let size = measure(body)
  if size.width <= width / 2 {
    let start = x + (width - size.width) * side
    place(top + left, dx: start, dy: y, body)
    spot(id, start, y, size.width, size.height, 0)
  }
}
#let sheet(left-edge, top-edge, width, height, gutter, spanning, columns, sidebar, side, notes, runners) = context {
  for (id, y, side, body) in runners { runner(id, left-edge, y, width, side, body) }
  let (bottom, y, x) = (top-edge + height, top-edge, left-edge)
  let gap = 0.8em.to-absolute()
  let (used, content) = stack(width, height / 3, notes)
  if used > 0pt {
    area(x, bottom - used, width, used, content)
    place(top + left, dx: x, dy: bottom - used - gap / 2, line(length: width / 4, stroke: 0.5pt))
    bottom -= used + gap
  }
  let (used, content) = stack(width, (bottom - y) / 2, spanning)
  if used > 0pt {
    area(x, y, width, used, content)
    y += used + gap
  }
  let inner = width
  if sidebar.len() > 0 {
    let pad = 0.5em.to-absolute()
    let across = width * side.at(0)
    let (used, content) = stack(across - 2 * pad, bottom - y - 2 * pad, sidebar)
    if used > 0pt {
      inner = width - across - gutter
      let start = if side.at(1) { x } else { x + inner + gutter }
      if side.at(1) { x += across + gutter }
      place(top + left, dx: start, dy: y, rect(width: across, height: used + 2 * pad, fill: luma(225)))
      area(start + pad, y + pad, across - 2 * pad, used, content)
    }
  }
  let one = (inner - gutter * (columns.len() - 1)) / columns.len()
  for (number, blocks) in columns.enumerate() {
    let (used, content) = stack(one, bottom - y, blocks)
    area(x + number * (one + gutter), y, one, bottom - y, content)
  }
}
"""


# A hyphen at a line's end and one in a word are the same glyph, and whichever comes second in a PDF is marked, which
# moves it by less than a pixel. Here the hyphen in a word comes first, so that a page does not depend on those before.
FIRST = (
    "#page(width: 99pt, height: 99pt)["
    + "".join(f'#text(font: "{font}")[#"-" #strong("-") #emph("-")]' for font in FONTS)
    + "]\n"
)


class Spot(NamedTuple):
    """Where a block stands: left, top, right, bottom in pixels, and how many of its words, None for all."""

    box: tuple[float, float, float, float]
    kept: int | None


def source(documents: Sequence[Document], spots: bool = True) -> str:
    """All documents as one source, a page each.

    Args:
        documents: pages.
        spots: whether links mark the blocks; then a page comes first that is none of them.
    """
    begin = f"#let spots = {'true' if spots else 'false'}\n{PRELUDE}"
    return begin + (FIRST if spots else "") + "".join(map(_page, documents))


def compile_pdf(text: str) -> bytes:
    """The PDF of a source, with typst's own fonts alone: the same bytes on every machine.

    Raises:
        RuntimeError: typst cannot make it.
    """
    # typst's threads do not live on in a fork, such as a data loader's worker, which would wait for them for ever
    if _threads_of.setdefault("process", os.getpid()) != os.getpid():
        command = [sys.executable, "-c", _ELSEWHERE, *sys.path]
        done = subprocess.run(command, input=text.encode(), capture_output=True)
        if done.returncode:
            raise RuntimeError(f"typst: {done.stderr.decode(errors='replace').strip().rpartition(chr(10))[2]}")
        return done.stdout
    compiler = typst.Compiler(font_paths=_fonts(), ignore_system_fonts=True)
    made = compiler.compile(input=text.encode(), **_SETTINGS)
    assert isinstance(made, bytes)
    return made


_SETTINGS: dict[str, Any] = {"format": "pdf", "timestamp": 0, "pdf_tags": False}
_ELSEWHERE = f"""\
import sys
sys.path[:] = sys.argv[1:]
import typst
compiler = typst.Compiler(font_paths=typst.Fonts(include_system_fonts=False), ignore_system_fonts=True)
sys.stdout.buffer.write(compiler.compile(input=sys.stdin.buffer.read(), **{_SETTINGS}))
"""
_threads_of: dict[str, int] = {}


def read_spots(document: pypdfium2.PdfDocument, number: int) -> dict[int, Spot]:
    """Where the blocks of a page stand, by their numbers."""
    page = document[number]
    height, place = page.get_height(), ctypes.c_int(0)
    link, rectangle, text = raw.FPDF_LINK(), raw.FS_RECTF(), ctypes.create_string_buffer(64)
    spots = {}
    while raw.FPDFLink_Enumerate(page, place, link):
        raw.FPDFLink_GetAnnotRect(link, rectangle)
        raw.FPDFAction_GetURIPath(document, raw.FPDFLink_GetAction(link), text, len(text))
        _, block, kept = text.value.decode().split(":")
        box = (rectangle.left, height - rectangle.top, rectangle.right, height - rectangle.bottom)
        spots[int(block)] = Spot(box, int(kept) or None)
    return spots


@lru_cache(maxsize=1)
def _fonts() -> typst.Fonts:
    return typst.Fonts(include_system_fonts=False)


def _page(document: Document) -> str:
    style = document.style
    size, margin = style.text_size, style.margin
    numbers = {id(block): number for number, block in enumerate(document.blocks())}
    line = LINE * size
    top = margin + (1.3 * line if document.above else 0)
    bottom = style.height - margin - (1.3 * line if document.below else 0)

    def entries(blocks: Sequence[Block]) -> str:
        return _array(_entry(numbers[id(block)], block, style.gap, size) for block in blocks)

    runners = _array(
        f"({numbers[id(block)]}, {y:.4g}pt, {side}, {typeset(block)})"
        for blocks, y in ((document.above, margin * 0.7), (document.below, style.height - margin * 0.7 - line))
        for block, side in zip(blocks, _SIDES[len(blocks)], strict=True)
    )
    arguments = (
        *(f"{value:.6g}pt" for value in (margin, top, style.width - 2 * margin, bottom - top, style.gutter)),
        entries(document.spanning),
        _array(entries(column.blocks) for column in document.columns),
        entries(document.sidebar),
        f"({style.sidebar_share:.4g}, {'true' if style.sidebar_left else 'false'})",
        entries(document.footnotes),
        runners,
    )
    justified = "true" if style.justified else "false"
    return (
        f"#page(width: {style.width}pt, height: {style.height}pt, margin: 0pt)[\n"
        f'#set text(font: "{style.font}", size: {size:.4g}pt, top-edge: "ascender", bottom-edge: "descender", '
        f"hyphenate: {justified}, overhang: false)\n"
        f'#set par(justify: {justified}, linebreaks: "simple", leading: {style.leading:.4g}pt, '
        f"first-line-indent: (amount: {style.indent:.4g}pt, all: true))\n"
        "#set list(spacing: 0.3em)\n#set enum(spacing: 0.3em)\n"
        "#show list: set par(justify: false)\n#show enum: set par(justify: false)\n"
        f"#sheet({', '.join(arguments)})]\n"
    )


# where runners stand, by how many there are: 0 left, 1 right
_SIDES = {0: (), 1: (0.5,), 2: (0, 1)}


CENTRED = (DisplayFormula, Table, Rank, Caption)
# those that do not stand without the block below them
BINDING = (Title, Caption)


def _entry(number: int, block: Block, gap: float, size: float) -> str:
    above = gap + size * _ABOVE.get(type(block), 0.0)
    middle, binds = ("true" if isinstance(block, kinds) else "false" for kinds in (CENTRED, BINDING))
    return f"({number}, {above:.4g}pt, {typeset(block)}, {middle}, {binds})"


# space above a block beyond the gap, of the text's size
_ABOVE: dict[type[Block], float] = {Title: 0.4, Table: -0.1, DisplayFormula: 0.1}


@singledispatch
def typeset(block: Block | Inline) -> str:
    """A block, or a part of a line, as typst's code; a string is a paragraph that may be cut."""
    raise TypeError(f"{type(block).__name__} has no typst form: register one with typeset.register")


@typeset.register
def _(block: Words) -> str:
    return _string(block.text)


@typeset.register
def _(block: Emphasis) -> str:
    return f"emph({_string(block.text)})"


@typeset.register
def _(block: InlineFormula) -> str:
    return f"${block.expression.typst()}$"


@typeset.register
def _(block: NoteMark) -> str:
    return f'super("{block.number}")'


@typeset.register
def _(block: Paragraph) -> str:
    if len(block.parts) == 1 and isinstance(block.parts[0], Words):
        return typeset(block.parts[0])
    pieces: list[str] = []
    for part in block.parts:
        if pieces and not isinstance(part, NoteMark):
            pieces.append('" "')
        pieces.append(typeset(part))
    return f"par({' + '.join(pieces)})"


@typeset.register
def _(block: Title) -> str:
    text = f'text(size: {_TITLES[block.level]}em, weight: "bold", hyphenate: false, {_string(block.text)})'
    return f"par(justify: false, first-line-indent: 0pt, {text})"


_TITLES = {1: 1.5, 2: 1.15}


@typeset.register
def _(block: Listing) -> str:
    return f"{'enum' if block.numbered else 'list'}({', '.join(map(_string, block.items))})"


@typeset.register
def _(block: DisplayFormula) -> str:
    return f"math.equation(block: true, ${block.expression.typst()}$.body)"


@typeset.register
def _(block: Table) -> str:
    ruled = "stroke: 0.5pt" if block.lines else "stroke: (_, y) => if y == 0 { (y: 0.6pt) }"
    cells = ", ".join(
        f"table.cell(colspan: {cell.columns}, rowspan: {cell.rows}, {_string(cell.text)})"
        for row in block.rows
        for cell in row
    )
    return (
        "{ set par(justify: false); set text(size: 0.9em, hyphenate: false); "
        f"table(columns: {block.columns}, inset: 0.25em, align: left + horizon, {ruled}, {cells}) }}"
    )


@typeset.register(Caption)
def _(block: Caption) -> str:
    return f"par(justify: false, first-line-indent: 0pt, text(size: 0.9em, {_string(block.text)}))"


@typeset.register(RunningHead)
@typeset.register(RunningFoot)
def _(block: RunningHead | RunningFoot) -> str:
    return f"text(size: 0.85em, {_string(block.text)})"


@typeset.register
def _(block: PageNumber) -> str:
    return f'text(size: 0.85em, "{block.number}")'


@typeset.register
def _(block: Rank) -> str:
    return f'box(stroke: 0.8pt, inset: (x: 0.35em, y: 0.05em), strong("{block.number}"))'


@typeset.register
def _(block: Footnote) -> str:
    return f'par(first-line-indent: 0pt, text(size: 0.85em, super("{block.number}") + {_string(" " + block.text)}))'


def _string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _array(items: Iterator[str]) -> str:
    return "(" + "".join(f"{item}, " for item in items) + ")"
