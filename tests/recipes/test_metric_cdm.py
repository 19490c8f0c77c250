"""CDM without TeX: a formula's tokens, boxes in an image drawn here, names, and what agrees."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recipes.metrics import formula_commands as kinds
from recipes.metrics.cdm import CDM
from recipes.metrics.characters import Agreement, agree, common_name, compare_formulas, consistent
from recipes.metrics.formula_drawing import MARGIN, Drawing, TeXError, find_engine, symbol_boxes
from recipes.metrics.formula_names import SYMBOLS
from recipes.metrics.formula_parts import Formula, FormulaError, Symbol
from recipes.metrics.formula_symbols import inside, read_formula


def row(names: str, *, step: int = 40, down: int = 0) -> Drawing:
    """Symbols of a letter each beside one another, `step` pixels apart."""
    boxes = [(MARGIN + k * step, MARGIN + down, MARGIN + k * step + 20, MARGIN + down + 30) for k in range(len(names))]
    size = 2 * MARGIN + len(names) * step, 2 * MARGIN + down + 30
    return Drawing(tuple(names), np.array(boxes, float).reshape(-1, 4), size)


@pytest.mark.parametrize(
    ("latex", "names"),
    [
        (r"a+b", r"a + b"),
        (r"$$ x_{i}^2 $$", r"x i 2"),
        (r"x^2_i", r"x i 2"),
        (r"f''(x)", r"f \prime \prime ( x )"),
        (r"\frac12", r"\frac 1 2"),
        (r"\dfrac{a}{b}", r"\frac a b"),
        (r"{a+1 \over b}", r"\frac a + 1 b"),
        (r"{n \choose k}", r"\binom n k"),
        (r"\sqrt[3]{x}", r"\sqrt 3 x"),
        (r"\hat{x}_i", r"\hat x i"),
        (r"\mathbf{A} \bm x {\bf y} \mathrm{d}t", r"A x y d t"),
        (r"\text{if $x > 0$ is 5\%}", r"i f x > 0 i s 5 \%"),
        (r"\sin x \lim_{n}", r"s i n x l i m n"),
        (r"\operatorname*{max}_x", r"m a x x"),
        (r"a \cdots b", r"a . . . b"),
        (r"\left( x \middle| y \right.", r"\left( x \middle| y"),
        (r"\big\{ x \Bigr]", r"\big\{ x \Bigr]"),
        (r"\begin{pmatrix} a & b \\ c & d \end{pmatrix}", r"\left( a b c d \right)"),
        (r"\begin{cases} a \\[2pt] b \end{cases}", r"\left\{ a b"),
        (r"\begin{array}{*{2}{c}|l} a & b \\ \hline c \end{array}", r"a b c"),
        (r"\begin{cases}[0,1)&a\\2&b\end{cases}", r"\left\{ [ 0 , 1 ) a 2 b"),
        (r"\begin{align}[x,y]&=1\end{align}", "[ x , y ] = 1"),
        (r"\begin{bmatrix}[a,b]&c\end{bmatrix}", r"\left[ [ a , b ] c \right]"),
        (r"\begin{gathered}[a]\end{gathered}", "[ a ]"),
        (r"\begin{cases}[t]\end{cases}", r"\left\{ [ t ]"),
        (r"\begin{aligned} [ t ] a \end{aligned} \begin{array}[b]{c} x \end{array}", "a x"),
        (
            r"\begin{alignedat}[c]{2} a &= b \end{alignedat} \begin{pmatrix*}[r] 1 \end{pmatrix*}",
            r"a = b \left( 1 \right)",
        ),
        (r"\smash[b]{y} \smash{[b]} \cfrac[l]{a}{b} \cfrac ab", r"y [ b ] \frac a b \frac a b"),
        (r"\genfrac{[}{\}}{0pt}{1}{n}{k} \genfrac \{ | {} {} n k", r"\left[ n k \right\} \left\{ \frac n k \right|"),
        (r"\genfrac{}{\rangle}{.4pt}{}{n}{k}", r"\frac n k \right\rangle"),
        (r"a=1\\ [a b]=c+d+e", "a = 1 [ a b ] = c + d + e"),
        (r"a \\ [2] \\ [2ab] \\ [2\pi] \\ [\alpha] \\ [", r"a [ 2 ] [ 2 a b ] [ 2 \pi ] [ \alpha ] ["),
        (r"a \\[0.3\baselineskip] b \\[\jot] c \\*[-2pt] d \\[1.5 em] e \\ [ .5 c m ] f", "a b c d e f"),
        (r"a \\[-\jot] b \\[1,5ex] c \\[2.mm]", "a b c"),
        (r"a &= b \\ c &= d", r"a = b c = d"),
        (r"a \quad \, b \tag{1} \label{x} \hspace{2em} \phantom{c}", r"a b"),
        (r"\color{red} a \textcolor[rgb]{1,0,0}{b} \mkern-6mu c", r"a b c"),
        (r"a \not= b \neq c \not{\in} d", r"a \not= b \neq c \not\in d"),
        (r"\overset{a}{=} \underbrace{x}_{n}", r"a = \underbrace x n"),
        ("a，b % and nothing more", r"a , b"),
        (r"\textcircled{1} 55\,°", r"\textcircled 1 5 5 °"),
        ("```latex\n\\alpha\n```", r"\alpha"),
        (r"\[ \]", ""),
    ],
)
def test_tokens_are_what_is_drawn(latex, names):
    assert read_formula(latex).names == names.split()


@pytest.mark.parametrize(
    ("specification", "columns"),
    [
        (r"l|c||r", "lcr"),
        (r"@{\hspace{1em}}l@{}c", "lc"),
        (r"p{\dimexpr.5\linewidth} m{\dimexpr(\linewidth-\real{0.5}cm)} r", "llr"),
        (r">{\color{blue}}r @{\{} c @{\}} !{\vrule width \real{1}pt} l", "rcl"),
        (r"*{2}{c}|*3{lr}", "cclrlrlr"),
        (r"*{3}{p{1cm}} *{2}{@{\hspace{1em}}l} *{4}c", "lllllcccc"),
        (r"X", "l"),
    ],
)
def test_columns_are_their_alignments(specification, columns):
    text = read_formula(rf"\begin{{array}}{{{specification}}}\end{{array}}").coloured()
    assert text == rf"\begin{{array}}{{{columns}}}\end{{array}}"


def test_brackets_after_line_breaks_are_read_once():
    """Reading each of them a second time takes 2**40 steps."""
    assert read_formula("a" + r"\\[\begin{matrix}" * 40 + r"\end{matrix}" * 40).names == ["a", *"[" * 40]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\frac{a}{b}", r"{a \over b}"),
        (r"\frac{a}{b}", r"\tfrac a b"),
        (r"\binom{n}{k}", r"\genfrac{(}{)}{0pt}{}{n}{k}"),
        (r"\frac{n}{k}", r"\genfrac{}{}{}{0}{n}{k}"),
        (r"{n \atop k}", r"{\genfrac{}{}{0.0 pt}{}{n}{k}}"),
        (r"a^{2}", r"a^2"),
        (r"x_{i}^{2}", r"x^2_i"),
        (r"f'", r"f^{\prime}"),
        (r"\ldots", r"..."),
        (r"\mathbf{x}", r"\symbf x"),
        (r"\begin{Vmatrix}a\end{Vmatrix}", r"\left\|\begin{matrix}a\end{matrix}\right\|"),
        (r"\begin{align*}a&=b\end{align*}", r"\begin{aligned}a&=b\end{aligned}"),
    ],
)
def test_two_spellings_of_one_drawing_are_written_alike(one, other):
    assert read_formula(one).names == read_formula(other).names
    colours = [re.sub(r"(?<!\\)[{} ]", "", read_formula(latex).coloured()) for latex in (one, other)]
    assert len(set(colours)) == 1


@pytest.mark.parametrize(
    ("latex", "complaint"),
    [
        (r"\frac{a", "ends where } is needed"),
        (r"a}", "ends what was never begun"),
        (r"\left( a", r"ends where \\right is needed"),
        (r"a \right)", "ends what was never begun"),
        (r"{\left( a } \right)", r"a \\right is missing before }"),
        (r"\begin{array}{c} a", r"ends where \\end is needed"),
        (r"\begin{array}{c} a \end{matrix}", "array is ended by matrix"),
        (r"\begin{tikzpicture} \end{tikzpicture}", "tikzpicture is no environment of formulas"),
        (r"\frac", "ends where something is needed"),
        (r"x^\over y", r"\\over stands where something is needed"),
        (r"\input{/etc/passwd}", r"\\input does more than to draw"),
        (r"\hspace{\def\a{b}}", r"\\def does more than to draw"),
        (r"\hspace{\latelua{x}}", r"\\latelua does more than to draw"),
        (r"\not{\begin{directlua}{local f = io.open('/tmp/x', 'w')}\end{directlua}}", "which is not one symbol"),
        (r"\not{\begin{input}{/etc/passwd}\end{input}}", "which is not one symbol"),
        (r"\begin{directlua} x \end{directlua}", "directlua is no environment of formulas"),
        (r"\not{^^5cinput{/etc/passwd}}", r"\^\^ does more than to draw"),
        (r"a^^b", r"\^\^ does more than to draw"),
        (r"\not{\latelua{x}}", r"\\latelua does more than to draw"),
        (r"\not{\typeout{formula 3}}", r"\\typeout does more than to draw"),
        (r"\not{\unheardof{x}}", "which is not one symbol"),
        (r"\not\unheardof", r"followed by \\unheardof, which is not one symbol"),
        (r"\not\frac ab", r"followed by \\frac, which is not one symbol"),
        (r"\not{}", "followed by nothing, which is not one symbol"),
        (r"\not}", "followed by }, which is not one symbol"),
        ("\\not\\", r"followed by \\, which is not one symbol"),
        (r"\left$ x \right)", r"\$ is no delimiter"),
        (r"\big^ x", r"\^ is no delimiter"),
        ("{" * 5000, "nested too deep"),
        (r"\genfrac{ab}{)}{0pt}{}{n}{k}", "ab is no delimiter"),
        (r"\genfrac{(}{)}{0pt}{}{n}", "ends where something is needed"),
        ("a+b\ud835", "half of a pair of surrogates is no character"),
    ],
)
def test_what_is_no_formula_is_refused(latex, complaint):
    with pytest.raises(FormulaError, match=complaint):
        read_formula(latex)


@pytest.mark.parametrize(
    "latex",
    [
        r"\%s", r"{\%s}{x}", r"\text{\%s{x}}", r"\left\%s x \right.", r"\big\%s", r"\hat\%s",
        r"\not %s", r"\not{%s}", r"\left %s x \right %s", r"\left. x \middle %s y \right.", r"\big %s", r"\bigl{%s}",
        r"\genfrac{\%s}{.}{0pt}{\%s}{x}{y}", r"\genfrac{}{\%s}{\%s}{}{x}{y}", r"\smash[\%s]{x}", r"a\\[2\%s]b",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["unheardof", "pdfobj", "pdffiledump", "write18", "special*", "@@input", "", "g", "p"])
def test_tex_gets_no_command_that_is_not_known_to_draw_one_symbol(latex, name):
    """Neither from mathematics nor from a text, a delimiter or an argument."""
    try:
        text = read_formula(latex.replace("%s", name)).coloured()
    except FormulaError:
        return
    given = set(re.findall(r"\\[A-Za-z]+|\\.", text))
    assert given <= {
        r"\mathcolor", r"\textcolor", r"\color", r"\text", r"\left", r"\middle", r"\right", r"\big", r"\bigl", r"\hat",
        r"\not", r"\}", r"\genfrac", r"\frac", r"\smash", r"\begin", r"\end", r"\\",
    }  # fmt: skip


@pytest.mark.parametrize("latex", ["x=1 \\\\% first\n y=2", "x=1 \\\\ % first\n y=2", "x=1 % first\n\\\\ y=2"])
def test_a_comment_ends_with_its_line(latex):
    assert read_formula(latex).names == ["x", "=", "1", "y", "=", "2"]
    assert read_formula(r"5\% a \\\% b").names == ["5", r"\%", "a", r"\%", "b"]


PIECES = (
    "a", "1", "+", "{", "}", "_", "^", "'", "&", "(", ")", "[", "]", "|", "$", "~", "中", " ",
    r"\\", r"\,", r"\{", r"\}", r"\frac", r"\sqrt", r"\hat", r"\left", r"\right", r"\big", r"\over", r"\text",
    r"\mathbf", r"\sum", r"\limits", r"\not", r"\hspace", r"\tag", r"\operatorname",
    r"\begin{array}{c}", r"\end{array}", r"\begin{cases}", r"\end{cases}", r"\begin{aligned}[t]", r"\end{aligned}",
    r"\genfrac", r"\smash", r"\cfrac", "[b]", "[2pt]", r"\jot", r"\unheardof", r"\pdfobj", r"\z@",
)  # fmt: skip
# what is no symbol
STRUCTURE = {
    "\\mathcolor", "\\textcolor", "\\color", "\\begin", "\\end", "\\\\", "\\left", "\\middle", "\\right", "\\not",
    "\\genfrac", "\\nolimits", "\\^", "\\textcircled", "\\substack",
    *kinds.ACCENTS, *kinds.WITH_OPTION, *kinds.FRACTIONS.values(), *kinds.STACKS, *kinds.FONTS.values(),
    *kinds.TEXTS.values(), *kinds.SWITCHES, *kinds.SPACES, *kinds.PHANTOMS, *kinds.SIZES,
}  # fmt: skip


@example(["\\text", "}"])
@example(["\\hspace", "}"])
@given(st.lists(st.sampled_from(PIECES), max_size=24))
def test_any_text_is_a_formula_of_known_commands_or_refused_and_its_groups_are_closed(pieces):
    try:
        formula = read_formula(" ".join(pieces))
    except FormulaError:
        return
    assert set(re.findall(r"\\[A-Za-z]+|\\.", formula.coloured())) <= SYMBOLS | STRUCTURE
    text = re.sub(r"\\.", "", formula.coloured())
    depths = np.cumsum([(letter == "{") - (letter == "}") for letter in text] or [0])
    assert depths[-1] == 0
    assert (depths >= 0).all()


def test_delimiters_around_a_formula_are_taken_off():
    for latex in ("x+y", " $x+y$", "$$\nx+y\n$$", r"\[x+y\]", r"\(x+y\)", r"$$\[x+y\]$$"):
        assert inside(latex) == "x+y"
    assert inside("$$$$") == inside(" ") == ""


def test_colours_are_numbered_in_the_order_of_the_latex():
    text = read_formula(r"{a \over b}").coloured()
    assert re.findall(r"\[rgb\]\{([^}]*)\}", text) == [f"0.00000,0.00000,{k / 255:.5f}" for k in (1, 2, 3)]
    many = Formula((Symbol("a"), "{a}") * 70_000).coloured()
    assert f"\\mathcolor[rgb]{{{1 / 255:.5f},{17 / 255:.5f},{112 / 255:.5f}}}{{a}}" in many  # 70,000 = 0x011170


def test_boxes_are_found_by_colour():
    image = np.full((60, 100, 3), 255, np.uint8)
    image[10:20, 30:35] = (0, 0, 1)
    image[40:44, 50:80] = (0, 0, 0)  # ink of no symbol
    image[30:32, 20:60] = (0, 0, 3)
    image[15, 90] = (0, 0, 3)
    drawing = symbol_boxes(image, ("x", "not drawn", r"\frac"))
    # the ink is 71 x 34; a box has a pixel more on each side, as the published tool's
    assert drawing.size == (70 + 2 * MARGIN, 33 + 2 * MARGIN)
    assert drawing.names == ("x", r"\frac")
    corner = np.array([20, 10, 20, 10]) - MARGIN
    assert (drawing.boxes == np.array([[29, 9, 35, 20], [19, 14, 91, 32]]) - corner).all()
    assert symbol_boxes(np.full((4, 4, 3), 255, np.uint8), ("x",)) is None


def test_what_is_drawn_alike_has_one_name():
    for names in (
        ("(", r"\left(", r"\big(", r"\Biggr("), (r"\{", r"\left\{", r"\lbrace", r"\bigl\lbrace"),
        ("|", r"\middle|", r"\mid"), (r"\to", r"\rightarrow"), (r"\le", r"\leq"), (r"\ne", r"\neq", r"\not="),
        (r"\hat", r"\widehat"), (r"\phi", r"\varphi"), (r"\langle", r"\left<", r"\left\langle"), ("'", r"\prime"),
    ):  # fmt: skip
        assert len({common_name(name) for name in names}) == 1, names
    for name in (r"\bigcup", r"\leftrightarrow", r"\rightharpoonup", "a", r"\bar", r"\bigoplus"):
        assert common_name(name) == name


def test_centres_agree_after_a_shift_and_a_scale():
    generator = np.random.default_rng(0)
    truth = generator.uniform(0, 1000, (40, 2))
    # the published transformation scales around the middle
    moved = (truth - truth.mean(0)) * 1.3 + truth.mean(0) + (300, -50)
    assert consistent(truth, moved).all()
    strayed = moved.copy()
    strayed[::20] += 90, -200
    assert np.flatnonzero(~consistent(truth, strayed)).tolist() == [0, 20]
    # each of two lines by itself
    lines = np.where(np.arange(40)[:, None] < 20, truth, truth + np.array([-400, 60]))
    assert consistent(truth, lines).all()
    # too few to be judged
    assert consistent(truth[:3], truth[2::-1]).all()


@pytest.mark.parametrize(
    ("prediction", "truth", "matched"),
    [
        ("a+b=c", "a+b=c", 5),
        ("a+b=d", "a+b=c", 4),
        # z and x in each other's place, further off than is allowed
        ("y=2x+3z", "y=2z+3x", 5),
        # places of three symbols are not judged
        ("a+b", "b+a", 3),
        ("xiy+z", "xy+z", 4),
        ("a/b", "a-b", 2),
        ("abc", "xyz", 0),
    ],
)
def test_the_score_is_the_f1_of_symbols_that_agree(prediction, truth, matched):
    found = agree(row(prediction), row(truth))
    assert found == Agreement(matched, len(prediction), len(truth))
    assert found.score == pytest.approx(2 * matched / (len(prediction) + len(truth)))
    assert found.precision == matched / len(prediction)
    assert found.recall == matched / len(truth)
    assert found.exact == (matched == len(truth) == len(prediction))
    # of the same symbols, those that lie in the same order are matched
    assert agree(row(truth), row(prediction)).matched == matched


def test_names_of_one_drawing_agree_and_places_do_not_depend_on_the_size():
    one, other = row("abcdef"), row("abcdef", step=44)
    other = Drawing((r"\left(", *other.names[1:]), other.boxes, other.size)
    one = Drawing(("(", *one.names[1:]), one.boxes, one.size)
    assert agree(one, other).exact
    # a line that moved as a whole agrees
    below, beside = (np.concatenate((one.boxes, one.boxes + np.array(by * 2))) for by in ((0, 90), (240, 0)))
    assert agree(Drawing(one.names * 2, beside, (600, 60)), Drawing(one.names * 2, below, (300, 200))).exact


def test_what_is_not_drawn_scores_nothing():
    assert agree(None, row("abc")) == Agreement(0, 0, 3)
    assert agree(row("abc"), None) == Agreement(0, 3, 0)
    assert agree(row("abc"), replace(row(""), late=True)) == Agreement(0, 3, 0, late=True)
    nothing = agree(None, None)
    assert (nothing.score, nothing.precision, nothing.recall, nothing.exact) == (0, 0, 0, False)
    # neither needs to be drawn
    assert compare_formulas([("", " "), ("$$ $$", "{"), ("\\right", "}")], "no engine") == [
        None, Agreement(0, 0, 0), Agreement(0, 0, 0)
    ]  # fmt: skip


def test_an_engine_that_runs_programs_of_a_formula_is_refused():
    for use in (lambda: CDM(engine="lualatex"), lambda: compare_formulas([("a", "b")], "lualatex")):
        with pytest.raises(ValueError, match=r"engine: lualatex is none of pdflatex and xelatex \(lualatex would run"):
            use()


def test_no_tex_and_one_that_draws_nothing_are_told_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TeXError, match=r"no pdflatex or xelatex was found; install LaTeX .* amsmath"):
        find_engine()
    with pytest.raises(TeXError, match=r"no xelatex was found; install LaTeX .* amsmath"):
        CDM(engine="xelatex")
    for name, lacks in {"xelatex": "color.sty", "pdflatex": "amsmath.sty"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho '! {lacks} is not there' > formulas.log\nexit 1\n")
        (tmp_path / name).chmod(0o755)
        for use in (find_engine, lambda name=name: CDM(engine=name)):
            with pytest.raises(TeXError, match=rf"{name} is there but cannot draw \({lacks} is not there\); install"):
                use()
    (tmp_path / "pdflatex").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(TeXError, match=r"pdflatex is there but cannot draw \(it left no page\); install LaTeX"):
        find_engine()
