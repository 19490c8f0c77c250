"""CDM with a TeX installation, and without one in `recipes.evaluate`."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from test_evaluate import DEMO, block, entry, folder, needs_demo, run, scores  # noqa: F401

from recipes.evaluation import formulas
from recipes.evaluation.page import PageScores
from recipes.metrics import formula_drawing
from recipes.metrics.cdm import CDM
from recipes.metrics.characters import Agreement, compare_formulas
from recipes.metrics.formula_drawing import TeXError, draw, find_engine
from recipes.metrics.formula_names import SYMBOLS, TEXT_SYMBOLS
from recipes.metrics.formula_parts import Formula, visible, written
from recipes.metrics.formula_symbols import inside, read_formula

try:
    ENGINE, REASON = find_engine(), ""
except TeXError as error:
    ENGINE, REASON = "", str(error)
needs_tex = pytest.mark.skipif(not ENGINE, reason=REASON)

CASES = {
    (r"a+b=c", r"a+b=c"): 1,
    (r"\frac{a}{b}", r"{a \over b}"): 1,
    (r"a^{2}", r"a^2"): 1,
    (r"\left( \frac{1}{2} \right)", r"(\frac12)"): 1,
    (r"\lim_{x\to0}\sin x", r"\operatorname*{lim}_{x\rightarrow 0}\mathrm{sin}\,x"): 1,
    (r"\begin{pmatrix}a&b\\c&d\end{pmatrix}", r"\left(\begin{array}{cc}a&b\\c&d\end{array}\right)"): 1,
    (r"\textcircled{1} 5°", r"\textcircled 1 5 °"): 1,
    (
        r"\begin{matrix}" + "&".join("abcdefghijklmn") + r"\end{matrix}",
        r"\begin{array}{*{14}{c}}" + "&".join("abcdefghijklmn") + r"\end{array}",
    ): 1,
    (r"a+b=d", r"a+b=c"): 4 / 5,
    (r"x_i+y", r"x+y"): 2 * 3 / 7,
    (r"\genfrac[]{0pt}{}{n}{k}+\smash[b]{y}", r"\left[{n\atop k}\right]+y"): 1,
    # the bar of a fraction is no slash
    (r"\frac{a}{b}", r"a/b"): 2 / 3,
    (r"y=2x+3z", r"y=2z+3x"): 5 / 7,
    # TeX leaves out what it does not know
    (r"a \unheardof b", r"ab"): 1,
    (r"\frac{a", r"a"): 0,
    ("", r"a"): 0,
    ("a+b\ud835", r"a+b"): 0,
    ("x=1 \\\\% first\n y=2", "x=1 \\\\% first\n y=2"): 1,
    # a letter after a command is no part of its name
    (r"\not{p}+m", r"\not p+m"): 1,
    (r"\not{p}+m", r"+m"): 4 / 5,
    (r"\big g+x", r"+x"): 4 / 5,
    # TeX is asked for no more than symbols
    (r"a \pdfobj{b} \write18{c}", r"a"): 0,
    (r"a \pdfobj", r"a"): 1,
}


@needs_tex
def test_formulas_are_compared_as_they_are_drawn():
    found = compare_formulas([*CASES], ENGINE)
    assert {pair: each.score for pair, each in zip(CASES, found, strict=True)} == pytest.approx(CASES)


@pytest.mark.skipif(ENGINE != "pdflatex", reason="xelatex has other fonts")
def test_every_known_symbol_is_one_of_tex():
    names = sorted(name for name in SYMBOLS if name[1:3].lower() != "up" or name[1:] in ("uparrow", "Uparrow", "uplus"))
    shown = [["\\text{", *written(name), "}"] if name in TEXT_SYMBOLS else visible(name) for name in names]
    drawn = draw([Formula(tuple(parts)) for parts in shown], "pdflatex")
    assert [name for name, drawing in zip(names, drawn, strict=True) if not drawing or drawing.names != (name,)] == []


@needs_tex
def test_every_symbol_of_a_large_formula_is_found():
    latex = r"\sum_{i=1}^{n} \frac{\partial f}{\partial x_i} \hat{y} = \sqrt[3]{\left[ \int_0^1 \overline{AB} \right]}"
    formula = read_formula(r" \\ ".join([latex] * 30))
    (drawing,) = draw([formula], ENGINE)
    assert len(drawing.names) == len(formula.names) > 500
    assert list(drawing.names) == formula.names
    assert (drawing.boxes[:, 2:] > drawing.boxes[:, :2]).all()
    assert (drawing.boxes >= 0).all()
    assert (drawing.boxes[:, 2:].max(0) <= drawing.size).all()


@needs_tex
def test_half_a_character_of_the_truth_is_a_formula_that_is_not_drawn(folder, capsys):  # noqa: F811
    assert run(formula_page("half", "a+b\ud835", "x+y"), half="$$a+b$$\n\n$$x+y$$") == 0
    assert scores()["display_formula"]["cdm"] == 0.5
    assert "1 with 1 formulas that TeX cannot draw, of score 0: half.jpg" in capsys.readouterr().out


@needs_tex
@needs_demo
def test_every_formula_of_the_demo_pages_is_drawn_and_equals_itself():
    pages = json.loads((DEMO / "OmniDocBench_demo.json").read_text(encoding="utf-8"))
    truths = [item["latex"] for page in pages for item in page["layout_dets"] if "latex" in item and "html" not in item]
    # the same drawing from another text
    found = compare_formulas([(f"{{}} {inside(latex)} %", latex) for latex in truths], ENGINE)
    assert len(found) == 17
    assert all(each.exact for each in found)


@needs_tex
def test_a_formula_that_breaks_the_document_breaks_no_other():
    fine = read_formula("a+b")
    endless = Formula((r"\def\more{x\more}\more",))
    beyond = Formula((r"$\page\endgroup\end{document}",))
    drawn = draw([fine, endless, fine, beyond, read_formula(r"\unheardof c"), fine], ENGINE)
    assert [drawing and drawing.names for drawing in drawn] == [
        ("a", "+", "b"), None, ("a", "+", "b"), None, ("c",), ("a", "+", "b")
    ]  # fmt: skip


@needs_tex
def test_a_document_that_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(formula_drawing, "TIMEOUT", 0.01)
    assert [drawing.late for drawing in draw([read_formula("a"), read_formula("b")], ENGINE)] == [True, True]
    assert compare_formulas([("a", "b")], ENGINE) == [Agreement(0, 0, 0, late=True)]
    with pytest.raises(TeXError, match=r"longer than 0.01 s"):
        find_engine()


@needs_tex
def test_the_first_tex_that_draws_is_found(tmp_path, monkeypatch):
    for name, script in {"pdflatex": "exit 1", "xelatex": f'exec {shutil.which(ENGINE)} "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_engine() == "xelatex"
    assert CDM(engine="xelatex").engine == "xelatex"


@needs_tex
def test_a_formula_reads_no_file_and_starts_no_program(tmp_path):
    (tmp_path / "secret.tex").write_text("secret")
    drawn = draw([Formula((rf"\input{{{tmp_path / 'secret.tex'}}}",))], ENGINE)
    assert drawn == [None]
    draw([Formula((rf"x\immediate\write18{{touch {tmp_path / 'made'}}}",))], ENGINE)
    draw([Formula((rf"\newwrite\f\immediate\openout\f={tmp_path / 'made'}\immediate\write\f{{x}}x",))], ENGINE)
    assert [path.name for path in tmp_path.iterdir()] == ["secret.tex"]


@needs_tex
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_the_metric_is_the_mean_over_formulas_of_all_processes():
    one, other = CDM(engine=ENGINE), CDM()
    one.update([r"a+b=d", ""], [r"a+b=c", ""])
    other.update([r"\frac{a}{b}"], [r"{a \over b}"])
    other.update(["x_i+y", ""], ["x+y", "z"])
    one.merge_state(other)
    found = {name: value.item() for name, value in one.compute().items()}
    assert found == pytest.approx({
        "cdm": (4 / 5 + 1 + 6 / 7 + 0) / 4, "precision": (4 / 5 + 1 + 3 / 4 + 0) / 4,
        "recall": (4 / 5 + 1 + 1 + 0) / 4, "exact_match": 1 / 4,
    })  # fmt: skip
    assert torch.isnan(CDM(engine=ENGINE).compute()["cdm"])
    with pytest.raises(ValueError, match="every prediction needs its truth, got 1 and 2"):
        one.update(["a"], ["a", "b"])


def formula_page(name: str, *latex: str) -> dict:
    return entry(name, *(block(k, "equation_isolated", latex=text) for k, text in enumerate(latex, start=1)))


ONE = formula_page("one", r"$$a+b=\frac{c}{d}$$", r"$$\sum_{i} x_i \leq \alpha$$")
TWO = formula_page("two", r"$$y=mx+n$$")
PREDICTED = {"one": r"$$a+b={c \over d}$$" + "\n\n" + r"$$\sum_i x_i \le \beta$$", "two": r"$$y = \left( mx$$"}


@needs_tex
def test_the_evaluation_has_cdm_as_the_mean_over_pages(folder, capsys, monkeypatch):  # noqa: F811
    assert run(ONE, TWO, **PREDICTED) == 0
    first = scores()
    # of six symbols after the sum the last is wrong
    assert first["pages"]["one.jpg"]["display_formula"]["cdm"] == pytest.approx((1 + 5 / 6) / 2)
    assert first["pages"]["two.jpg"]["display_formula"]["cdm"] == 0
    assert first["display_formula"]["cdm"] == pytest.approx((1 + 5 / 6) / 4)
    assert first["groups"]["language"]["english"]["display_formula"] == first["display_formula"]
    assert first["left_out"] == []
    told = capsys.readouterr().out
    assert "CDM ↑" in told
    assert "1 with 1 formulas that TeX cannot draw, of score 0: two.jpg" in told
    monkeypatch.setattr(formulas, "TOGETHER", 1)
    monkeypatch.setattr(formulas, "WORTH_A_PROCESS", 1)
    assert run(ONE, TWO, options=("--predictions", "predictions", "--jobs", "2"), **PREDICTED) == 0
    assert scores() == first


@pytest.mark.parametrize(
    ("options", "path", "reason"),
    [
        (("--no-cdm",), None, "--no-cdm was given"),
        ((), "nowhere", "no pdflatex or xelatex was found; install LaTeX of 2022"),
    ],
)
def test_without_cdm_the_scores_are_what_they_were(options, path, reason, folder, capsys, monkeypatch):  # noqa: F811
    if path:
        monkeypatch.setenv("PATH", path)
    assert run(ONE, TWO, options=("--predictions", "predictions", *options), **PREDICTED) == 0
    assert [*scores()["display_formula"]] == ["edit_distance"]
    assert reason in scores()["left_out"][0]
    told = capsys.readouterr().out
    assert "CDM is left out: " in told
    assert "CDM ↑" not in told


def test_a_page_has_the_mean_of_its_formulas(monkeypatch):
    made = {
        "same": Agreement(3, 3, 3),
        "half": Agreement(1, 2, 2),
        "broken": Agreement(0, 0, 4),
        "": Agreement(0, 0, 4),
        "late": Agreement(0, 0, 4, late=True),
        "empty": None,
    }
    monkeypatch.setattr(formulas, "compare_formulas", lambda pairs, engine: [made[pair[0]] for pair in pairs])
    pages = {
        "one": PageScores(formulas=[("same", "x"), ("half", "x"), ("broken", "x")]),
        "two": PageScores(formulas=[("", "x"), ("empty", "")]),
        "three": PageScores(formulas=[("late", "x"), ("late", "x")]),
        "four": PageScores(formulas=[("empty", "")]),
    }
    seen: list[str] = []
    assert formulas.compare_pages(pages, "no engine", 1, seen.append) == {
        "that TeX cannot draw": {"one": 1}, "that TeX took longer than 30 s to draw": {"three": 2}
    }  # fmt: skip
    assert [page.cdm for page in pages.values()] == [[1, 0.5, 0], [0], [0, 0], []]
    assert seen == ["one", "one", "one", "two", "two", "three", "three", "four"]


@needs_tex
def test_a_page_whose_formula_takes_too_long_is_named(folder, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr("recipes.evaluate.find_engine", lambda: ENGINE)
    monkeypatch.setattr(formula_drawing, "TIMEOUT", 0.01)
    assert run(ONE, **PREDICTED) == 0
    told = capsys.readouterr().out
    assert "1 with 2 formulas that TeX took longer than 30 s to draw, of score 0: one.jpg" in told
    assert "cannot draw" not in told


def test_empty_pairs_are_in_no_average(folder, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr("recipes.evaluate.find_engine", lambda: "no engine")
    monkeypatch.setattr(formulas, "compare_formulas", lambda pairs, engine: [None for _ in pairs])
    assert run(ONE, **PREDICTED) == 0
    assert scores()["display_formula"]["cdm"] is None
    assert "of score 0" not in capsys.readouterr().out


@needs_tex
def test_formulas_without_a_prediction_count(folder):  # noqa: F811
    assert run(ONE, TWO, one="", two=r"$$y=mx+n$$") == 0
    found = json.loads(Path("out/scores.json").read_text())
    assert [page["display_formula"]["cdm"] for page in found["pages"].values()] == [0, 1]
