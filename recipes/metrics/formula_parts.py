"""A formula as pieces of LaTeX with a symbol before each piece that is drawn in a colour of its own."""

from collections.abc import Iterator
from dataclasses import dataclass

from recipes.metrics.formula_names import SYMBOLS

# LaTeX's own characters, and how those that a formula may show are written
_SPECIAL = frozenset("\\{}$#%&^_~'")
_ESCAPES = {"^": "\\^{}", "_": "\\_", "#": "\\#", "&": "\\&"}
_LEVELS = 256


class FormulaError(ValueError):
    """LaTeX that is no formula, and why."""


@dataclass(frozen=True)
class Symbol:
    r"""A visible token.

    Attributes:
        name: as it is compared; `\left(` and `\frac` are names, too.
        command: colours it, in mathematics, in a text, or until the end of a group.
    """

    name: str
    command: str = "\\mathcolor"


Parts = list[str | Symbol]


@dataclass(frozen=True)
class Formula:
    """A formula to be drawn.

    Attributes:
        parts: LaTeX, with a symbol before each group of it that is drawn in the symbol's colour.
    """

    parts: tuple[str | Symbol, ...]

    @property
    def names(self) -> list[str]:
        """The tokens in the order of the LaTeX."""
        return [part.name for part in self.parts if isinstance(part, Symbol)]

    def coloured(self) -> str:
        """LaTeX for mathematics, the n-th symbol, from 1, in the colour 0xRRGGBB = n."""
        return "".join(self._coloured())

    def _coloured(self) -> Iterator[str]:
        number = 0
        for part in self.parts:
            if isinstance(part, str):
                yield part
                continue
            number += 1
            levels = number // _LEVELS**2, number // _LEVELS % _LEVELS, number % _LEVELS
            yield part.command + "[rgb]{" + ",".join(f"{level / (_LEVELS - 1):.5f}" for level in levels) + "}"


def visible(token: str) -> Parts:
    """A token of mathematics."""
    return [Symbol(token), f"{{{_latex(token)}}}"]


def written(token: str) -> Parts:
    """A token of a text."""
    return [Symbol(token, "\\textcolor"), f"{{{_latex(token)}}}"]


def is_plain(token: str) -> bool:
    """Whether it is a character of no meaning to LaTeX, or a command that draws one symbol."""
    return token in SYMBOLS if len(token) != 1 else token not in _SPECIAL


def letters(word: str) -> Parts:
    """Each letter a token."""
    return [part for letter in word for part in visible(letter)]


def operator(name: Parts, *, limits: bool) -> Parts:
    """A function's name, its scripts beside it or, where it has limits, below and above."""
    return ["\\mathop{\\mathrm{", *name, "}}", *([] if limits else ["\\nolimits "])]


def fraction(command: str, above: Parts, below: Parts) -> Parts:
    """Two formulas above one another; the bar or the brackets between or around them are the token."""
    if command == "\\atop":
        return ["{\\genfrac{}{}{0pt}{}{", *above, "}{", *below, "}}"]
    return [Symbol(command), f"{{{command}{{", *above, "}{", *below, "}}"]


def delimiter(side: str, token: str) -> Parts:
    r"""A `\left`, `\middle` or `\right`: its colour is that of the group it stands in, for no other may end before."""
    if token == ".":
        return [f"{side}."]
    return [Symbol(side + token, "\\color"), f"{side} {_latex(token) or '.'}\\color{{black}}"]


def fenced(left: str, parts: Parts, right: str) -> Parts:
    r"""What stands between a `\left` and a `\right`."""
    return ["{", *delimiter("\\left", left), *parts, *delimiter("\\right", right), "}"]


def sized(command: str, token: str) -> Parts:
    r"""A delimiter after `\big` or another of its sizes."""
    return [Symbol(command + token), f"{{{command} {_latex(token) or '.'}}}"]


def _latex(token: str) -> str:
    """What TeX gets of a token: nothing of a command that is not known to draw one symbol and no more."""
    if token.startswith("\\"):
        return token if token in SYMBOLS else ""
    return _ESCAPES.get(token, token)
