r"""A LaTeX formula as its visible tokens, each with a colour of its own.

What is drawn alike is written alike first, as CDM's own tool does (arXiv 2409.03643): `{a \over b}` as `\frac{a}{b}`,
`a^2` as `a^{2}`, a subscript before its superscript, primes as superscripts, functions and dots as their letters,
delimiters of matrices as such. Fonts, spaces, labels and colours are no tokens. Nothing is drawn here.
"""

import re

from recipes.metrics import formula_commands as kinds
from recipes.metrics.formula_parts import (
    Formula,
    FormulaError,
    Parts,
    Symbol,
    delimiter,
    fenced,
    fraction,
    is_plain,
    letters,
    operator,
    sized,
    visible,
    written,
)  # fmt: skip

_TOKEN = re.compile(r"\\(?:operatorname|hspace|vspace|tag)\*|\\[A-Za-z]+|\\\\\*?|\\.|\s+|.", re.DOTALL)
# behind line breaks, but no percent sign of its own
_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*")
_FENCE = re.compile(r"```(?:latex)?(.*?)(?:```|$)", re.DOTALL)
_PAIRS = (("$$", "$$"), ("$", "$"), ("\\[", "\\]"), ("\\(", "\\)"))
# full-width forms of ASCII but for LaTeX's own characters, and what stands for one
_ASCII = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code - 0xFEE0) not in "\\{}$#%&^_"},
    **str.maketrans("。、−∗", ".,-*"),
}
_BREAKS = frozenset(("\\\\", "\\\\*", "\\cr", "\\newline", "\\tabularnewline"))
_CELLS = _BREAKS | {"&"}
_NOTHING: frozenset[str] = frozenset()
# a pair with others inside
_BRACES = r"\{(?:[^{}]|\{[^{}]*\})*\}"
# no length has more tokens
_OPTION = 32


def read_formula(latex: str) -> Formula:
    r"""Read LaTeX with or without its delimiters; empty where there is none.

    Raises:
        FormulaError: braces, environments or `\left` and `\right` do not go together, or it does more than to draw.
    """
    try:
        return Formula(tuple(_Reader(inside(latex)).formula()))
    except RecursionError:
        raise FormulaError("its groups are nested too deep") from None


def inside(latex: str) -> str:
    r"""LaTeX without the fence, the `$$ $$`, `$ $`, `\[ \]` or `\( \)` around it."""
    fence = _FENCE.search(latex)
    latex = (fence[1] if fence else latex).strip()
    for begin, end in _PAIRS:
        if latex.startswith(begin) and latex.endswith(end) and len(latex) >= len(begin + end):
            latex = latex[len(begin) : len(latex) - len(end)].strip()
    return latex


class _Reader:
    def __init__(self, latex: str) -> None:
        text = _COMMENT.sub(r"\1", latex).translate(_ASCII)
        if re.search(r"[\ud800-\udfff]", text):
            raise FormulaError("half of a pair of surrogates is no character")
        if "^^" in text:
            raise FormulaError("^^ does more than to draw")
        self.tokens = _TOKEN.findall(text)
        self.place = 0

    def formula(self) -> Parts:
        """All of it."""
        if beyond := sorted(kinds.FORBIDDEN.intersection(self.tokens)):
            raise FormulaError(f"{beyond[0]} does more than to draw")
        parts, cells = self._cells(_NOTHING)
        if token := self._peek():
            raise FormulaError(f"a {token} ends what was never begun")
        return ["\\begin{aligned}", *parts, "\\end{aligned}"] if cells else parts

    def _peek(self, *, blanks: bool = False) -> str:
        """The next token, empty at the end; blanks before it are skipped unless they count."""
        while not blanks and self.place < len(self.tokens) and self.tokens[self.place].isspace():
            self.place += 1
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def _next(self, what: str = "something", *, blanks: bool = False) -> str:
        token = self._peek(blanks=blanks)
        if not token:
            raise FormulaError(f"it ends where {what} is needed")
        self.place += 1
        return token

    def _expect(self, wanted: str) -> None:
        if self._next(wanted) != wanted:
            raise FormulaError(f"a {wanted} is missing before {self.tokens[self.place - 1]}")

    def _cells(self, ends: frozenset[str]) -> tuple[Parts, bool]:
        """Rows of cells until one of the ends, and whether they are more than one cell."""
        parts, cells = self._row(ends | _CELLS), False
        while (token := self._peek()) in _CELLS:
            self.place += 1
            if token != "&":
                self._leave_out(kinds.LENGTH)
            parts += ["&" if token == "&" else "\\\\ ", *self._row(ends | _CELLS)]
            cells = True
        return parts, cells

    def _row(self, ends: frozenset[str]) -> Parts:
        """Atoms until one of the ends, which is left."""
        parts: Parts = []
        while (token := self._peek()) and token not in ends and token not in ("}", "\\right", "\\end"):
            if token in kinds.INFIX:
                self.place += 1
                return fraction(kinds.INFIX[token], parts, self._row(ends))
            parts += self._scripts(self._nucleus())
        return parts

    def _scripts(self, parts: Parts) -> Parts:
        """A nucleus with what stands below and above it."""
        below: Parts = []
        above: Parts = []
        while True:
            token = self._peek()
            if token == "_":
                self.place += 1
                below += self._argument()
            elif token == "^":
                self.place += 1
                above += self._argument()
            elif token == "'":
                self.place += 1
                above += visible("\\prime")
            elif token in ("\\limits", "\\nolimits", "\\displaylimits"):
                self.place += 1
                parts = [*parts, f"{token} "]
            else:
                break
        if below:
            parts = [*parts, "_{", *below, "}"]
        return [*parts, "^{", *above, "}"] if above else parts

    def _argument(self) -> Parts:
        """A group without its braces, or what stands in its place."""
        if self._peek() == "{":
            return self._group()
        return self._nucleus()

    def _group(self) -> Parts:
        self._expect("{")
        parts: Parts = []
        while True:
            parts += self._row(_CELLS)
            if self._next("}") == "}":
                return parts
            if self.tokens[self.place - 1] not in _CELLS:
                raise FormulaError(f"a }} is missing before {self.tokens[self.place - 1]}")

    def _raw(self) -> str:
        """A group's tokens as they are, or the one in its place."""
        if self._peek() != "{":
            return self._next()
        self.place += 1
        begin, depth = self.place, 1
        while depth:
            token = self._next("}")
            depth += (token == "{") - (token == "}")
        return "".join(self.tokens[begin : self.place - 1])

    def _bracket(self) -> Parts:
        """An optional argument, empty where there is none."""
        if self._peek() != "[":
            return []
        self.place += 1
        parts = self._row(frozenset("]") | _CELLS)
        self._expect("]")
        return parts

    def _leave_out(self, option: str | None) -> None:
        """Leave out an optional argument whose text, without blanks, is of this pattern; None where there is none."""
        if option is None or self._peek() != "[":
            return
        ahead = self.tokens[self.place + 1 : self.place + _OPTION]
        if "]" in ahead and re.fullmatch(option, re.sub(r"\s", "", "".join(ahead[: ahead.index("]")]))):
            self.place += ahead.index("]") + 2

    def _nucleus(self) -> Parts:
        token = self._next()
        if token == "{":
            self.place -= 1
            return ["{", *self._group(), "}"]
        if token in ("_", "^", "'"):
            self.place -= 1
            return ["{}"]
        if token in ("}", "\\right", "\\end", *kinds.INFIX):
            raise FormulaError(f"{token} stands where something is needed")
        self._leave_out(kinds.PLACES.get(token))
        if token in kinds.FRACTIONS:
            return fraction(kinds.FRACTIONS[token], self._argument(), self._argument())
        if token == "\\genfrac":
            return self._general_fraction()
        if token in kinds.ACCENTS:
            return [Symbol(token), f"{{{token}{{", *self._argument(), "}}"]
        if token in kinds.WITH_OPTION:
            option = self._bracket()
            option = ["[{", *option, "}]"] if option else []
            return [Symbol(token), f"{{{token}", *option, "{", *self._argument(), "}}"]
        if token in kinds.STACKS:
            return [f"{token}{{", *self._argument(), "}{", *self._argument(), "}"]
        if token in kinds.FONTS:
            return [f"{kinds.FONTS[token]}{{", *self._argument(), "}"]
        if token in kinds.TEXTS:
            return [f"{kinds.TEXTS[token]}{{", *self._text(), "}"]
        if token in kinds.PHANTOMS:
            return [f"{token}{{", *_bare(self._argument()), "}"]
        if token == "\\textcircled":
            return [Symbol(token), "{\\text{\\textcircled{", *self._text(), "}}}"]
        if token == "\\substack":
            self._expect("{")
            parts, _ = self._cells(frozenset("}"))
            self._expect("}")
            return ["\\substack{", *parts, "}"]
        return self._word(token)

    def _word(self, token: str) -> Parts:
        """What takes no group as its argument."""
        if token == "\\begin":
            return self._environment()
        if token == "\\left":
            return self._fenced()
        if token == "\\middle":
            return delimiter("\\middle", self._delimiter())
        if token in kinds.SIZES:
            bracket = self._delimiter()
            return sized(token, bracket) if bracket != "." else []
        if token == "\\not":
            other = self._single()
            return [Symbol(f"\\not{other}"), f"{{\\not {other}}}"]
        if token in ("\\operatorname", "\\operatorname*"):
            return operator(self._argument(), limits=token.endswith("*"))
        if token[1:] in kinds.NAMES or token[1:] in kinds.NAMES_WITH_LIMITS:
            return operator(letters(token[1:]), limits=token[1:] in kinds.NAMES_WITH_LIMITS)
        if token in ("\\bmod", "\\mod", "\\pmod"):
            name = ["\\mathbin{\\mathrm{", *letters("mod"), "}}"]
            return [*visible("("), *name, *self._argument(), *visible(")")] if token == "\\pmod" else name
        if token in kinds.DOTS:
            return visible(".") * 3
        if token in kinds.SPACES or token in kinds.SWITCHES:
            return [f"{token} "]
        if token in kinds.DROPPED:
            self._skip(kinds.DROPPED[token])
            return []
        if token in kinds.LENGTHS:
            self._length()
            return []
        if token in _CELLS:
            return []
        if not token.isascii():
            return ["\\text{", *written(token), "}"]
        return visible(token)

    def _skip(self, arguments: int) -> None:
        """Leave out arguments, and the model of a colour before them."""
        if arguments and self._peek() == "[":
            while self._next("]") != "]":
                pass
        for _ in range(arguments):
            self._raw()

    def _length(self) -> None:
        while (token := self._peek()) and token in "+-.0123456789":
            self.place += 1
        for _ in range(2):
            if self._peek().isalpha():
                self.place += 1

    def _single(self) -> str:
        """One symbol or space, in a group or not."""
        token = self._raw().strip()
        if not is_plain(token) and token not in kinds.SPACES:
            raise FormulaError(f"\\not is followed by {token or 'nothing'}, which is not one symbol")
        return token

    def _delimiter(self) -> str:
        token = self._next("a delimiter")
        if token == "{" and self.tokens[self.place + 1 : self.place + 2] == ["}"]:
            # \big{(}
            token = self._next()
            self.place += 1
        return _checked({"{": "\\{", "}": "\\}"}.get(token, token))

    def _general_fraction(self) -> Parts:
        """A fraction behind its delimiters, either of which may be empty, its bar's thickness and its style."""
        left, right, thickness, _ = (re.sub(r"\s", "", self._raw()) for _ in range(4))
        above, below = self._argument(), self._argument()
        bar = not re.fullmatch(r"[-+]*[0.,]+[a-z]+", thickness)
        if (left, right, bar) == ("(", ")", False):
            return fraction("\\binom", above, below)
        parts = fraction("\\frac" if bar else "\\atop", above, below)
        return fenced(_checked(left or "."), parts, _checked(right or ".")) if left or right else parts

    def _fenced(self) -> Parts:
        left = self._delimiter()
        inner: Parts = []
        while True:
            inner += self._row(_CELLS)
            if self._next("\\right") == "\\right":
                break
            if self.tokens[self.place - 1] not in _CELLS:
                raise FormulaError(f"a \\right is missing before {self.tokens[self.place - 1]}")
        return fenced(left, inner, self._delimiter())

    def _environment(self) -> Parts:
        name = re.sub(r"\s", "", self._raw())
        plain = name.removesuffix("*")
        if plain not in kinds.ENVIRONMENTS:
            raise FormulaError(f"{name} is no environment of formulas")
        self._leave_out(kinds.PLACES.get(name))
        columns = _columns(self._raw()) if plain in kinds.WITH_COLUMNS else ""
        parts, _ = self._cells(_NOTHING)
        self._expect("\\end")
        if (end := re.sub(r"\s", "", self._raw())) != name:
            raise FormulaError(f"{name} is ended by {end}")
        drawn = kinds.ENVIRONMENTS[plain]
        parts = [f"\\begin{{{drawn}}}", f"{{{columns}}}" if drawn == "array" else "", *parts, f"\\end{{{drawn}}}"]
        if plain not in kinds.DELIMITERS:
            return parts
        left, right = kinds.DELIMITERS[plain]
        return fenced(left, parts, right)

    def _text(self) -> Parts:
        """A text's argument: every character that is no blank is a token."""
        if self._peek() != "{":
            if (token := self._next()) == "}":
                raise FormulaError("an argument is missing before }")
            return self._character(token)
        self.place += 1
        parts: Parts = []
        while (token := self._next("}", blanks=True)) != "}":
            if token == "$":
                parts += ["$", *self._row(_CELLS | {"$"}), "$"]
                self._expect("$")
            elif token == "{":
                self.place -= 1
                parts += ["{", *self._text(), "}"]
            else:
                parts += self._character(token)
        return parts

    def _character(self, token: str) -> Parts:
        if token.isspace() or token in kinds.SPACES:
            return [" "]
        if token in kinds.TEXTS:
            return [f"{kinds.TEXTS[token]}{{", *self._text(), "}"]
        if token in kinds.DOTS:
            return written(".") * 3
        if token in kinds.DROPPED:
            self._skip(kinds.DROPPED[token])
            return []
        return [] if token in kinds.SWITCHES or token in _CELLS else written(token)


def _checked(token: str) -> str:
    if not token.startswith("\\") and not is_plain(token):
        raise FormulaError(f"{token} is no delimiter")
    return token


def _bare(parts: Parts) -> Parts:
    return [part for part in parts if isinstance(part, str)]


def _repeated(columns: re.Match[str]) -> str:
    return int(columns[1]) * (columns[2] or columns[3])


def _columns(specification: str) -> str:
    """The columns' alignments alone, without rules and what stands between."""
    text = re.sub(r"\s|\\[^A-Za-z]", "", specification)
    text = re.sub("[@!<>]" + _BRACES, "", text)
    text = re.sub("[pmb]" + _BRACES, "l", text)
    text = re.sub(r"\*\{?(\d{1,2})\}?(?:\{([lcr|]+)\}|([lcr]))", _repeated, text)
    return re.sub("[^lcr]", "", text) or "l"
