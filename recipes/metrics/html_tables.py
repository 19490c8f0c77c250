"""HTML tables as OmniDocBench compares them: one document a table, th as td, without attributes of looks.

The benchmark reads them with BeautifulSoup on the standard library's parser; so does this, without the former: an end
tag closes what stands open inside its element, one that closes nothing is dropped, and what is open at the end is
closed.
"""

import html
import re
import unicodedata
from dataclasses import dataclass
from html.entities import html5
from html.parser import HTMLParser

_VOID = frozenset((
    "area", "base", "br", "col", "embed", "hr", "img", "input", "keygen", "link", "menuitem", "meta", "param",
    "source", "track", "wbr", "basefont", "bgsound", "command", "frame", "image", "isindex", "nextid", "spacer",
))  # fmt: skip
_TABLE = re.compile(r"<table\b[^>]*>(.*)</table>", re.DOTALL | re.IGNORECASE)
_LOOKS = [re.compile(f'( {name}=".*?")') for name in ("style", "height", "width", "align", "class")]
_BODY = re.compile("</?tbody>")
_COLUMNS = re.compile("<colgroup>.*?</colgroup>")
_RENAMED = {"th": "td"}
_UNWRAPPED = ("thead", "span")
# marks inside cells that are no content
_MARKS = [f"<{end}{name}>" for name in ("sup", "sub", "span", "div", "p") for end in ("", "/")]


def normalise_table(text: str) -> str:
    """The tables of an HTML text as a document of one table; empty where it has none."""
    if "<table" not in text.replace(" ", "").replace("'", '"'):
        return ""
    text = html.unescape(_rewritten(text)).replace("\n", "")
    text = unicodedata.normalize("NFKC", text).strip()
    text = "".join(_TABLE.findall(text))
    for look in _LOOKS:
        text = look.sub("", text)
    text = re.sub(r"\s+", " ", _BODY.sub("", text))
    text = f'<html><body><table border="1" >{text}</table></body></html>'
    for mark in _MARKS:
        text = text.replace(mark, "")
    return _COLUMNS.sub("", text)


def cell_texts(text: str) -> list[str]:
    r"""Texts of the cells (td) that hold one text and nothing beside it, in the order of the document."""
    return [cell.replace(r"$\cdot$", "").strip() for cell in _read(text).cells if cell]


def _rewritten(text: str) -> str:
    return "".join(_read(text).written)


def _read(text: str) -> "_Writer":
    writer = _Writer()
    writer.feed(text)
    writer.close()
    writer.end()
    return writer


@dataclass
class _Open:
    """An element whose end has not come yet: its tag, children so far, the only one's text, its place among cells."""

    tag: str
    children: int = 0
    text: str | None = None
    cell: int | None = None


class _Writer(HTMLParser):
    """Writes a text again with th as td, without thead and span, and with mathematics as `$alttext$`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.text = ""
        self.written: list[str] = []
        self.open: list[_Open] = []
        self.cells: list[str | None] = []
        self.mathematics = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin an element."""
        self._end_text()
        if tag in _VOID:
            self._child(None)
            self._write(f"<{tag}{_written(attrs)}/>")
            return
        if tag == "math":
            self._write(html.escape(f"${dict(attrs).get('alttext') or ''}$", quote=False))
            self.mathematics += 1
        elif tag not in _UNWRAPPED:
            self._write(f"<{_RENAMED.get(tag, tag)}{_written(attrs)}>")
        self.open.append(_Open(tag, cell=len(self.cells) if tag == "td" else None))
        if tag == "td":
            self.cells.append(None)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin and end an element."""
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.close_one()

    def handle_endtag(self, tag: str) -> None:
        """Close the element and all that is open in it."""
        self._end_text()
        if any(element.tag == tag for element in self.open):
            while self.close_one() != tag:
                pass

    def handle_data(self, data: str) -> None:
        """Keep a text, which may come in pieces."""
        self.text += data

    def handle_entityref(self, name: str) -> None:
        """Keep a character by its name; an unknown one loses its semicolon, as it does in the benchmark."""
        self.text += html5.get(f"{name};", f"&{name}")

    def handle_charref(self, name: str) -> None:
        """Keep a character by its number."""
        self.text += html.unescape(f"&#{name};")

    def handle_comment(self, data: str) -> None:
        """Keep a comment."""
        self._end_text()
        self._child(data)
        self._write(f"<!--{data}-->")

    def end(self) -> None:
        """Close what is open at the end of the text."""
        self._end_text()
        while self.open:
            self.close_one()

    def close_one(self) -> str:
        """End the innermost open element; returns its tag."""
        self._end_text()
        element = self.open.pop()
        text = element.text if element.children == 1 else None
        if element.cell is not None:
            self.cells[element.cell] = text
        if element.tag == "math":
            self.mathematics -= 1
        elif element.tag not in _UNWRAPPED:
            self._write(f"</{_RENAMED.get(element.tag, element.tag)}>")
        self._child(text)
        return element.tag

    def _end_text(self) -> None:
        text, self.text = self.text, ""
        if not text:
            return
        if not text.strip(" \n\t\f\r"):
            # of blanks alone one is left, a line's end where they hold one
            text = "\n" if "\n" in text else " "
        self._child(text)
        self._write(html.escape(text, quote=False))

    def _child(self, text: str | None) -> None:
        if self.open:
            self.open[-1].children += 1
            self.open[-1].text = text

    def _write(self, text: str) -> None:
        if not self.mathematics:
            self.written.append(text)


def _written(attributes: list[tuple[str, str | None]]) -> str:
    return "".join(f' {name}="{html.escape(value or "")}"' for name, value in dict(attributes).items())
