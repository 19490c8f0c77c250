"""A prediction's Markdown in pieces: tables, formulas and texts, where OmniDocBench finds them.

It is no parser of Markdown: what a piece is, and where it is said to begin, is what the benchmark's expressions make
of it, for the matching depends on both. Nothing is ever malformed: what fits no expression is text.
"""

import re
from dataclasses import dataclass

from recipes.evaluation.pipe_tables import has_pipe_table, pipes_to_html

TEXT, FORMULA, INLINE, CODE, TABLE = "text_block", "equation_isolated", "equation_inline", "code", "html_table"

_IMAGE = re.compile(r"!\[.*?\]\(.*?\)")
_FENCES = [re.compile(rf"^```{name}\n?", re.MULTILINE) for name in ("markdown", "html", "latex")]
_FENCE_END = re.compile(r"```\n?$", re.MULTILINE)
_CODE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
_MATHEMATICS = re.compile(r"\$\$(.*?)\$\$|\\\[(.*?)\\\]|\$(.*?)\$|\\\((.*?)\\\)", re.DOTALL)
_DOLLARS = re.compile(r"\$\$(.*?)\$\$|\$(.*?)\$|\\\((.*?)\\\)", re.DOTALL)
_LATEX_TABLE = re.compile(r"\\begin{table}(.*?)\\end{table}", re.DOTALL)
_HTML_TABLE = re.compile(r"<table.*?</table>", re.DOTALL)
# LaTeX that stands around a text: taken off in this order
_WRAPPERS = (
    re.compile(r"\\title\{(.*?)\}"),
    re.compile(r"\\title\s*\{\s*(.*?)\s*\}", re.DOTALL),
    re.compile(r"\\text\s*\{\s*(.*?)\s*\}", re.DOTALL),
    re.compile(r"\\section\*?\{(.*?)\}"),
    re.compile(r"\\section\*?\{\s*(.*?)\s*\}", re.DOTALL),
)


@dataclass(frozen=True)
class Piece:
    """A part of a prediction.

    Attributes:
        kind: text_block, code, equation_isolated, equation_inline or html_table.
        content: as it stands, a Markdown table as HTML.
        position: of its first character, as the benchmark counts.
    """

    kind: str
    content: str
    position: int

    @property
    def is_formula(self) -> bool:
        """Whether it is compared as LaTeX."""
        return self.kind in (FORMULA, INLINE)


@dataclass(frozen=True)
class Pieces:
    """A prediction taken apart.

    Attributes:
        running: texts by position, then formulas by position: the order the matching is given them in.
        tables: of HTML or Markdown, by position.
        latex_tables: how many are in LaTeX; the benchmark compares none of these.
    """

    running: tuple[Piece, ...]
    tables: tuple[Piece, ...]
    latex_tables: int


def take_apart(markdown: str) -> Pieces:
    """Cut a page's Markdown into pieces."""
    rest = _cleaned(markdown)
    latex, rest = _cut(rest, _latex_tables(rest))
    html, rest = _cut(rest, _environments(rest, re.compile(r"<table(?:[^>]*)>"), re.compile("</table>"), 16, 8))
    found = [Piece(TABLE, content, start) for start, content in html]
    formulas, rest = _formulas(rest)
    tables, rest = _pipe_tables(rest)
    codes, rest = _codes(rest)
    texts = _texts(rest)
    found = _by_position([*found, *formulas, *tables, *codes, *texts])
    groups: dict[str, list[Piece]] = {}
    for piece in found:
        groups.setdefault("formula" if piece.is_formula else "table" if piece.kind == TABLE else "text", []).append(
            piece
        )
    tables = tuple(groups.pop("table", []))
    # the kind of the page's first piece goes first, as the benchmark's dictionary has it
    return Pieces(tuple(piece for group in groups.values() for piece in group), tables, len(latex))


def _cleaned(text: str) -> str:
    text = _IMAGE.sub("", text)
    for fence in _FENCES:
        text = fence.sub("", text)
    text = _FENCE_END.sub("", text)
    text = re.sub("_{4,}", "____", text)
    text = re.sub(" {4,}", "    ", text)
    for tag in ("<html>", "</html>", "<body>", "</body>"):
        text = text.replace(tag, "")
    return text


def _by_position(pieces: list[Piece]) -> list[Piece]:
    return sorted(pieces, key=lambda piece: piece.position)


def _blank(text: str, start: int, end: int) -> str:
    return text[:start] + " " * (end - start) + text[end:]


def _cut(text: str, spans: list[tuple[int, int]]) -> tuple[list[tuple[int, str]], str]:
    """The spans' positions and contents, and the text with blanks in their place."""
    found = [(start, text[start:end]) for start, end in spans]
    for start, content in found:
        text = _blank(text, start, start + len(content))
    return found, text


def _latex_tables(text: str) -> list[tuple[int, int]]:
    spans = [match.span() for match in _LATEX_TABLE.finditer(text)]
    for start, end in spans:
        text = _blank(text, start, end)
    begin, end = re.compile(r"\\begin{tabular}"), re.compile(r"\\end{tabular}")
    # the benchmark counts one character too many for the end
    return sorted([*spans, *_environments(text, begin, end, 16, 14)])


def _environments(
    text: str, begin: re.Pattern[str], end: re.Pattern[str], begin_length: int, end_length: int
) -> list[tuple[int, int]]:
    """Spans of the outermost environments; one that is never closed is looked into.

    The lengths are what the benchmark steps over after a begin or an end, whatever stands there.
    """
    spans, opened, position = [], [], 0
    while position < len(text):
        opening, closing = begin.search(text, position), end.search(text, position)
        if opening and (not closing or opening.start() < closing.start()):
            opened.append(opening.start())
            position = opening.start() + end_length
        elif closing:
            if opened:
                start = opened.pop()
                if not opened:
                    spans.append((start, min(closing.start() + end_length, len(text))))
            position = closing.start() + end_length
        else:
            break
    if opened:
        inner = opened[0] + begin_length
        found = _environments(text[inner:], begin, end, begin_length, end_length)
        spans += [(start + inner, stop + inner) for start, stop in found]
    return spans


def _formulas(text: str) -> tuple[list[Piece], str]:
    """Formulas; the inline ones also stay where they are, as a part of their text."""
    pieces, rest = [], text
    for match in _MATHEMATICS.finditer(text):
        line = " ".join(match[0].strip().split("\n"))
        dollars = _DOLLARS.search(line)
        if dollars and not dollars[1]:
            pieces.append(Piece(INLINE, _DOLLARS.sub(r"\\[\2\3\\]", line), match.start()))
            continue
        content = _DOLLARS.sub(r"\\[\1\\]", line) if dollars else line
        pieces.append(Piece(FORMULA, content, match.start()))
        rest = _blank(rest, *match.span())
    return pieces, rest


def _pipe_tables(text: str) -> tuple[list[Piece], str]:
    if not has_pipe_table(text):
        return [], text
    text = rest = pipes_to_html(text)
    pieces = []
    for match in _HTML_TABLE.finditer(text):
        pieces.append(Piece(TABLE, match[0].strip(), match.start()))
        rest = _blank(rest, *match.span())
    return pieces, rest


def _codes(text: str) -> tuple[list[Piece], str]:
    pieces, rest = [], text
    for match in _CODE.finditer(text):
        pieces.append(Piece(CODE, match[2].strip(), match.start()))
        rest = _blank(rest, *match.span())
    return pieces, rest


def _texts(text: str) -> list[Piece]:
    for wrapper in _WRAPPERS:
        text = wrapper.sub(r"\1", text)
    blocks = text.split("\n\n")
    if len(blocks) == 1:
        blocks = text.split("\n")
    pieces, position = [], 0
    for block in blocks:
        content = "\n".join(line.strip() for line in block.strip().split("\n") if line.strip())
        if content.startswith("<table") and content.endswith("</table>"):
            pieces.append(Piece(TABLE, content, position))
        elif content.startswith("$") and content.endswith("$"):
            if content.replace("$", "").strip():
                pieces.append(Piece(FORMULA, content, position))
        elif content:
            pieces.append(Piece(TEXT, content, position))
        # the blank lines between blocks are not counted
        position += len(block)
    return pieces
