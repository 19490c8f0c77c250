"""Formulas as trees, each of whose nodes is written as LaTeX and as typst's mathematics."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from recipes.documents.draws import Draws

LETTERS = "abcdefghkmnpqrstuvwxyz"
CAPITALS = "ABCDEFGHKLMNPQRSTUVWXYZ"
# one name in both languages
GREEK = ("alpha", "beta", "gamma", "delta", "lambda", "mu", "pi", "sigma", "tau", "omega", "Delta", "Omega")
FUNCTIONS = ("sin", "cos", "log", "exp", "max", "min")


class Expression(ABC):
    """A formula or a part of one."""

    @abstractmethod
    def latex(self) -> str:
        """As LaTeX."""

    @abstractmethod
    def typst(self) -> str:
        """As typst's mathematics."""


@dataclass(frozen=True)
class Symbol(Expression):
    """A letter, or a Greek one by its name."""

    name: str

    def latex(self) -> str:
        """`x`, `\\alpha`."""
        return self.name if len(self.name) == 1 else f"\\{self.name}"

    def typst(self) -> str:
        """`x`, `alpha`."""
        return self.name


@dataclass(frozen=True)
class Number(Expression):
    """A number as it is printed."""

    digits: str

    def latex(self) -> str:
        """The digits."""
        return self.digits

    def typst(self) -> str:
        """The digits."""
        return self.digits


@dataclass(frozen=True)
class Operation(Expression):
    """Two parts with a sign between them.

    Args:
        sign: one of `SIGNS`.
    """

    sign: str
    left: Expression
    right: Expression

    def latex(self) -> str:
        """`a + b`."""
        return f"{self.left.latex()} {SIGNS[self.sign]} {self.right.latex()}"

    def typst(self) -> str:
        """`a + b`."""
        return f"{self.left.typst()} {self.sign} {self.right.typst()}"


# typst -> LaTeX
SIGNS = {
    "+": "+",
    "-": "-",
    "dot": "\\cdot",
    "times": "\\times",
    "=": "=",
    "<": "<",
    "<=": "\\leq",
    "approx": "\\approx",
}
JOINING, COMPARING = ("+", "-", "dot", "times"), ("=", "=", "=", "<", "<=", "approx")


@dataclass(frozen=True)
class Fraction(Expression):
    """One part over another."""

    above: Expression
    below: Expression

    def latex(self) -> str:
        """`\\frac{a}{b}`."""
        return f"\\frac{{{self.above.latex()}}}{{{self.below.latex()}}}"

    def typst(self) -> str:
        """`frac(a, b)`."""
        return f"frac({self.above.typst()}, {self.below.typst()})"


@dataclass(frozen=True)
class Script(Expression):
    """A symbol with what stands lower and higher behind it; one of them may be missing."""

    base: Expression
    below: Expression | None = None
    above: Expression | None = None

    def latex(self) -> str:
        """`x_{1}^{2}`."""
        below = "" if self.below is None else f"_{{{self.below.latex()}}}"
        return self.base.latex() + below + ("" if self.above is None else f"^{{{self.above.latex()}}}")

    def typst(self) -> str:
        """`x_(1)^(2)`."""
        below = "" if self.below is None else f"_({self.below.typst()})"
        return self.base.typst() + below + ("" if self.above is None else f"^({self.above.typst()})")


@dataclass(frozen=True)
class Root(Expression):
    """A square root."""

    inside: Expression

    def latex(self) -> str:
        """`\\sqrt{x}`."""
        return f"\\sqrt{{{self.inside.latex()}}}"

    def typst(self) -> str:
        """`sqrt(x)`."""
        return f"sqrt({self.inside.typst()})"


@dataclass(frozen=True)
class Parentheses(Expression):
    """A part in parentheses that grow with it."""

    inside: Expression

    def latex(self) -> str:
        """`\\left( x \\right)`."""
        return f"\\left( {self.inside.latex()} \\right)"

    def typst(self) -> str:
        """`(x)`, behind a space: typst takes a name with parentheses for a call."""
        return f" ({self.inside.typst()})"


@dataclass(frozen=True)
class Function(Expression):
    """A named function of a part."""

    name: str
    inside: Expression

    def latex(self) -> str:
        """`\\sin \\left( x \\right)`."""
        return f"\\{self.name} {Parentheses(self.inside).latex()}"

    def typst(self) -> str:
        """`sin (x)`."""
        return f"{self.name}{Parentheses(self.inside).typst()}"


@dataclass(frozen=True)
class Big(Expression):
    """A sum, a product or an integral with its bounds.

    Args:
        name: in both languages, by `BIG`.
    """

    name: str
    below: Expression
    above: Expression
    inside: Expression

    def latex(self) -> str:
        """`\\sum_{i = 1}^{n} x`."""
        return f"\\{BIG[self.name]}_{{{self.below.latex()}}}^{{{self.above.latex()}}} {self.inside.latex()}"

    def typst(self) -> str:
        """`sum_(i = 1)^(n) x`."""
        return f"{self.name}_({self.below.typst()})^({self.above.typst()}) {self.inside.typst()}"


BIG = {"sum": "sum", "product": "prod", "integral": "int"}


@dataclass(frozen=True)
class Matrix(Expression):
    """Rows of parts in parentheses."""

    rows: tuple[tuple[Expression, ...], ...]

    def latex(self) -> str:
        """`\\begin{pmatrix} a & b \\\\ c & d \\end{pmatrix}`."""
        rows = " \\\\ ".join(" & ".join(part.latex() for part in row) for row in self.rows)
        return f"\\begin{{pmatrix}} {rows} \\end{{pmatrix}}"

    def typst(self) -> str:
        """`mat(a, b; c, d)`."""
        return f"mat({'; '.join(', '.join(part.typst() for part in row) for row in self.rows)})"


def draw_symbol(draws: Draws) -> Expression:
    """A letter, sometimes with an index or a power."""
    base = Symbol(draws.choice(GREEK) if draws.chance(0.25) else draws.choice(LETTERS + CAPITALS))
    if draws.chance(0.3):
        index = Symbol(draws.choice("ijkn")) if draws.chance(0.6) else Number(str(draws.integer(0, 9)))
        return Script(base, below=index)
    return Script(base, above=Number(str(draws.integer(2, 3)))) if draws.chance(0.2) else base


def draw_equation(draws: Draws, size: int) -> Expression:
    """An equation whose right side has about `size` parts."""
    return Operation(draws.choice(COMPARING), draw_symbol(draws), draw_sum(draws, max(size, 1)))


def draw_sum(draws: Draws, size: int) -> Expression:
    """Terms of about `size` parts in all, joined by signs."""
    if size < 2:
        return _term(draws, size)
    first = draws.integer(1, size - 1)
    return Operation(draws.choice(JOINING), _term(draws, first), draw_sum(draws, size - first))


def _term(draws: Draws, size: int) -> Expression:
    if size < 2:
        return Number(str(draws.integer(2, 99))) if draws.chance(0.25) else draw_symbol(draws)
    return draws.choice(_TERMS)(draws, size)


def _fraction(draws: Draws, size: int) -> Expression:
    return Fraction(draw_sum(draws, size // 2), draw_sum(draws, size - size // 2))


def _root(draws: Draws, size: int) -> Expression:
    return Root(draw_sum(draws, size))


def _function(draws: Draws, size: int) -> Expression:
    return Function(draws.choice(FUNCTIONS), draw_sum(draws, size - 1))


def _big(draws: Draws, size: int) -> Expression:
    index = Symbol(draws.choice("ijk"))
    below = Operation("=", index, Number(str(draws.integer(0, 1))))
    return Big(draws.choice(tuple(BIG)), below, Symbol(draws.choice("nmNM")), _term(draws, size - 1))


def _matrix(draws: Draws, size: int) -> Expression:
    rows, columns = 2, 2 if size < 5 else 3
    return Matrix(tuple(tuple(_term(draws, 1) for _ in range(columns)) for _ in range(rows)))


def _parentheses(draws: Draws, size: int) -> Expression:
    return Operation("dot", draw_symbol(draws), Parentheses(draw_sum(draws, size)))


_TERMS: tuple[Callable[[Draws, int], Expression], ...] = (
    _fraction,
    _fraction,
    _root,
    _function,
    _big,
    _matrix,
    _parentheses,
)
