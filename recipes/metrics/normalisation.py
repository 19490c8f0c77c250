"""What OmniDocBench takes out of a text or formula before two of them are compared."""

import logging
import re

from pylatexenc.latex2text import LatexNodes2Text

# it warns of every command that lacks its arguments, and a model writes many
logging.getLogger("pylatexenc").setLevel(logging.ERROR)

_INLINE = re.compile(r"\$(.*?)\$|\\\((.*?)\\\)")
_ESCAPED = re.compile(r"\\[\\_&%^]")
# line and tab, written out or real
_BREAKS = ("\\t", "\\n", "\t", "\n", "/t", "/n")
_SYMBOLS = re.compile(r"[^\w\u4e00-\u9fff]")

_LATEX = LatexNodes2Text()
_DISPLAY = re.compile(r"\\\[(.+?)(?<!\\)\\\]")
_PASSES = tuple(
    re.compile(pattern)
    for pattern in (r"\\tag\{.*?\}", r"\\hspace\{.*?\}", r"\\begin\{.*?\}", r"\\end\{.*?\}", r"\\arraycolsep.*?\}")
)
# taken out one after the other: a name goes before another one that begins with it only where it is listed so
_COMMANDS = (
    *(f"\\math{style}" for style in ("bf", "rm", "normal", "it", "bb", "cal", "scr", "frak", "sf", "tt")),
    "\\textbf", "\\text", "\\boldmath", "\\boldsymbol", "\\operatorname", "\\bm", "\\symbfit", "\\mathbfcal",
    "\\symbf", "\\scriptscriptstyle", "\\notag", "\\setlength", "\\coloneqq", "\\space", "\\thickspace",
    "\\thinspace", "\\medspace", "\\nobreakspace", "\\negmedspace", "\\quad", "\\qquad", "\\enspace",
    "\\substackw", " ", "$$", "\\left", "\\right", "\\displaystyle", "\\text",
)  # fmt: skip


def normalise_text(text: str) -> str:
    """Letters, digits and underscores alone, inline mathematics as Unicode; case stays."""
    return letters(inline_to_unicode(text))


def letters(text: str) -> str:
    """Letters, digits and underscores."""
    for mark in _BREAKS:
        text = text.replace(mark, "")
    return _SYMBOLS.sub("", text)


def inline_to_unicode(text: str) -> str:
    r"""Replace `$...$` and `\(...\)` of one line by Unicode where they hold a command, an index or a power.

    Those that hold none, or that cannot be read as LaTeX, stay as they are.
    """
    return _INLINE.sub(_unicode, text)


def latex_to_text(formula: str) -> str:
    """Mathematics as Unicode."""
    return _LATEX.latex_to_text(formula)


def normalise_formula(formula: str) -> str:
    """LaTeX in lower case without delimiters, spaces, fonts, environments, labels and the size of brackets."""
    formula = formula.strip().strip("$").strip("\n")
    if display := _DISPLAY.search(formula):
        formula = display[1].strip()
    for pattern in _PASSES:
        formula = pattern.sub("", formula)
    formula = formula.strip(".")
    for command in _COMMANDS:
        formula = formula.replace(command, "")
    return formula.lower()


def _unicode(match: re.Match[str]) -> str:
    inside = match[1] if match[1] is not None else match[2]
    inside = _ESCAPED.sub("", inside)
    if not any(mark in inside for mark in "\\^_"):
        return match[0]
    if inside.endswith("\\"):
        inside += " "
    try:
        return latex_to_text(inside).strip()
    except Exception:  # a text is no LaTeX document: whatever its parser dislikes stays as it stands
        return match[0]
