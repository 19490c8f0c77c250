"""A formula's LaTeX and its picture are the same formula."""

import re
import unicodedata
from collections import Counter

import pypdfium2
import pytest
from pylatexenc.latexwalker import LatexWalker

from recipes.documents.draws import Draws
from recipes.documents.formula import (
    BIG,
    FUNCTIONS,
    GREEK,
    SIGNS,
    Big,
    Fraction,
    Function,
    Matrix,
    Number,
    Operation,
    Parentheses,
    Root,
    Script,
    Symbol,
    draw_equation,
)
from recipes.documents.typst import compile_pdf

# what each command of LaTeX looks like
LOOKS = {
    name: unicodedata.lookup(f"GREEK {'CAPITAL' if name[0].isupper() else 'SMALL'} LETTER {name.upper()}")
    for name in GREEK
    if name != "lambda"
} | {"lambda": "λ", "cdot": "⋅", "times": "×", "leq": "≤", "approx": "≈"}
LOOKS |= {"sqrt": "√", "sum": "∑", "prod": "∏", "int": "∫"} | {name: name for name in FUNCTIONS}
LAYOUT = re.compile(r"\\(?:left|right|begin|end|frac)(?![a-z])|\{pmatrix\}|\\\\|[{}_^&\s]")


def printed(formulas) -> list[Counter]:
    """The characters of each formula on the page, from the PDF's text."""
    pages = "".join(
        f"#page(width: 900pt, height: 300pt)[#math.equation(block: true, ${formula.typst()}$.body)]\n"
        for formula in formulas
    )
    pdf = pypdfium2.PdfDocument(compile_pdf(pages))
    texts = (unicodedata.normalize("NFKC", page.get_textpage().get_text_range()) for page in pdf)
    # delimiters that grow are pieces of font without a letter: parentheses are compared in another test
    return [
        Counter(re.sub(r"[\s()⎛-⎠\x00-\x1f]", "", text.replace("−", "-").replace("ϵ", "ε").replace("∙", "⋅")))
        for text in texts
    ]


def meant(latex: str) -> Counter:
    """The characters that LaTeX stands for, read without the code that wrote it."""
    text = LAYOUT.sub(" ", latex)
    text = re.sub(r"\\([A-Za-z]+)", lambda found: LOOKS[found[1]], text)
    return Counter(re.sub(r"[\s()]", "", text))


def test_page_and_latex_have_the_same_symbols():
    formulas = [draw_equation(Draws("formula", number), 1 + number % 9) for number in range(120)]
    for formula, found in zip(formulas, printed(formulas), strict=True):
        assert found == meant(formula.latex()), (formula.latex(), formula.typst())


def test_latex_is_well_formed():
    for number in range(200):
        latex = draw_equation(Draws(number), 1 + number % 12).latex()
        nodes, position, length = LatexWalker(f"${latex}$", tolerant_parsing=False).get_latex_nodes()
        assert (position, length) == (0, len(latex) + 2)
        assert len(nodes) == 1
        assert latex.count("\\left") == latex.count("\\right")


@pytest.mark.parametrize(
    ("formula", "latex"),
    [
        (Script(Symbol("x"), Number("1"), Number("2")), "x_{1}^{2}"),
        (Fraction(Symbol("alpha"), Operation("+", Symbol("b"), Number("2"))), r"\frac{\alpha}{b + 2}"),
        (Function("sin", Root(Symbol("x"))), r"\sin \left( \sqrt{x} \right)"),
        (Big("product", Operation("=", Symbol("i"), Number("0")), Symbol("n"), Symbol("x")), r"\prod_{i = 0}^{n} x"),
        (
            Matrix(((Symbol("a"), Symbol("b")), (Number("1"), Number("2")))),
            r"\begin{pmatrix} a & b \\ 1 & 2 \end{pmatrix}",
        ),
        (Parentheses(Symbol("f")), r"\left( f \right)"),
    ],
)
def test_each_node(formula, latex):
    assert formula.latex() == latex
    assert printed([formula])[0] == meant(latex)


def test_a_symbol_before_parentheses_is_no_call():
    formula = Operation("dot", Symbol("f"), Parentheses(Operation("+", Symbol("x"), Number("1"))))
    text = pypdfium2.PdfDocument(compile_pdf(f"${formula.typst()}$"))[0].get_textpage().get_text_range()
    assert unicodedata.normalize("NFKC", text).replace(" ", "").strip() in ("f⋅(x+1)", "f·(x+1)")


def test_every_name_is_known_to_both():
    formulas = [Symbol(name) for name in GREEK] + [Function(name, Symbol("x")) for name in FUNCTIONS]
    formulas += [Operation(sign, Symbol("a"), Symbol("b")) for sign in SIGNS]
    formulas += [Big(name, Number("0"), Number("1"), Symbol("x")) for name in BIG]
    for formula, found in zip(formulas, printed(formulas), strict=True):
        assert found == meant(formula.latex()), formula
