"""What the benchmark makes of a page: its pieces, which of them are compared, and in which order."""

import random

import pytest
from test_evaluate import TABLE, block, cut, score

from recipes.evaluation.matching import Line, Match, match
from recipes.evaluation.pieces import take_apart
from recipes.metrics.formula_symbols import read_formula

IGNORED = frozenset({"header"})
STORY = "the quick brown fox jumps over the lazy dog and runs into the dark wood where nobody has ever seen it again"


def kinds(markdown: str) -> list[tuple[str, str]]:
    pieces = take_apart(markdown)
    return [(piece.kind, piece.content) for piece in (*pieces.running, *pieces.tables)]


def lines(*texts: str, category: str = "text_block") -> list[Line]:
    return [Line(text, text, category) for text in texts]


def test_a_page_is_cut_at_blank_lines_and_a_page_without_any_at_every_line():
    assert kinds("# a\n\nb\n  c\n\n\n\n![alt](x.png)\n\n") == [("text_block", "# a"), ("text_block", "b\nc")]
    assert kinds("a\nb") == [("text_block", "a"), ("text_block", "b")]
    assert kinds("```markdown\na\n```") == [("text_block", "a")]
    assert kinds("") == kinds("\n \n") == []


def test_formulas_are_taken_out_and_those_of_a_line_stay_in_it_too():
    assert kinds("a $x$ b\n\n$$\ny\n$$\n\n\\[z\\]") == [
        ("text_block", "a $x$ b"),
        ("equation_inline", r"\[x\]"),
        ("equation_isolated", r"\[ y \]"),
        ("equation_isolated", r"\[z\]"),
    ]


def test_tables_of_html_latex_and_pipes():
    assert kinds(f"a\n\n{TABLE}\n\nb") == [("text_block", "a"), ("text_block", "b"), ("html_table", TABLE)]
    nested = f"<table><tr><td>{TABLE}</td></tr></table>"
    assert kinds(nested) == [("html_table", nested)]
    # one that is never closed is looked into
    assert ("html_table", TABLE) in kinds(f"<table border=1><tr>{TABLE}")
    assert take_apart(r"a \begin{tabular}{l} x \end{tabular} b").latex_tables == 1
    [(_, text), (kind, table)] = kinds("a\n\n| x | y |\n|---|---|\n| 1 | 2 |\n\n")
    assert (kind, text) == ("html_table", "a")
    assert "".join(table.split()) == (
        '<tableborder="1"><tr><tdcolspan="1"rowspan="1">x</td><tdcolspan="1"rowspan="1">y</td></tr>'
        "<tr><th>1</th><th>2</th></tr></table>".replace("<th>", '<tdcolspan="1"rowspan="1">').replace("</th>", "</td>")
    )


def test_random_markdown_is_always_taken_apart():
    generator = random.Random(0)
    parts = [
        "<table>", "</table>", "<tr><td>", "|", "|\n", "---", "$", "$$", r"\[", r"\]", "\n\n", "\n", "a", "# ", "`" * 3,
        r"\begin{tabular}", r"\end{tabular}", r"\begin{table}", r"\begin{array}{l}", r"\end{array}", r"\\",
    ]  # fmt: skip
    blocks = [block(1, text="a b"), block(2, "equation_isolated", latex=r"\[a\]"), block(3, "table", html=TABLE)]
    for _ in range(300):
        found = score("".join(generator.choices(parts, k=generator.randint(1, 25))), *blocks)
        for tally in (found.text, found.formula, found.table, found.order):
            assert tally.distance is None or 0 <= tally.distance <= 1


def test_every_block_that_counts_is_in_one_match():
    generator = random.Random(0)
    for _ in range(200):
        blocks = [
            Line(text, text, generator.choice(["text_block", "header", "title"]))
            for text in (
                "".join(generator.choices("abc ", k=generator.randint(1, 12))) for _ in range(generator.randint(0, 6))
            )
        ]
        found = match(
            blocks, lines(*("".join(generator.choices("abc ", k=generator.randint(1, 20))) for _ in range(5))), IGNORED
        )
        counted = [index for index, line in enumerate(blocks) if line.category not in IGNORED]
        assert sorted(index for pair in found for index in pair.blocks) == counted


def test_lines_that_are_one_block_are_joined_and_blocks_in_one_line_are_found():
    words = STORY.split()
    parts = [" ".join(words[start : start + 7]) for start in range(0, 21, 7)]
    other = "0123456789 0123456789"
    assert match(lines(STORY, other), lines(*parts, other), IGNORED)[:2] == [Match((0,), (0, 1, 2)), Match((1,), (3,))]
    assert Match((0, 1, 2), (0,)) in match(lines(*parts, other), lines(STORY, other), IGNORED)


def test_lines_like_ignored_blocks_are_not_compared():
    header = Line("journal of things", "journal of things", "header")
    assert match([header, *lines("text")], lines("journal of thing", "text"), IGNORED) == [Match((1,), (1,))]
    assert match([header, *lines("text")], lines("journal of thing"), IGNORED) == [Match((1,), ())]


def test_the_order_is_that_of_the_lines():
    blocks = [
        block(1, text="alpha one"),
        block(2, text="beta two"),
        block(3, text="gamma three"),
        block(4, "header", text="top"),
    ]
    assert score("alpha one\n\nbeta two\n\ngamma three", *blocks).order.edits == 0
    found = score("gamma three\n\nalpha one\n\nbeta two\n\ntop", *blocks)
    assert (found.order.edits, found.order.length, found.text.edits) == (2, 3, 0)
    assert score("alpha one\n\ngamma three", *blocks).order.edits == 1


def test_a_text_that_a_column_cuts_is_joined():
    halves = [block(1, text="the first half "), block(2, text="and the second"), block(3, text="else")]
    whole = "the first half and the second\n\nelse"
    assert score(whole, *halves, relations=(cut(1, 2),)).text.edits == 0
    # a part of two pairs counts twice, as in the benchmark
    thrice = score(whole, *halves, relations=(cut(1, 2), cut(2, 3)))
    assert thrice.text.length > len("thefirsthalfandthesecondelse")


def test_a_comment_of_a_formula_leaves_the_next_one():
    whole, parts = (
        r"\alpha=\beta+\gamma+\delta+\epsilon+\zeta",
        (r"\alpha=\beta+\gamma % 1", r"+\delta+\epsilon+\zeta % 2"),
    )
    one = block(1, "equation_isolated", latex=whole)
    several = [block(k, "equation_isolated", latex=part) for k, part in enumerate(parts, start=1)]
    for found in score("\n\n".join(f"$$\n{part}\n$$" for part in parts), one), score(f"$${whole}$$", *several):
        ((prediction, truth),) = found.formulas
        assert read_formula(prediction).names == read_formula(truth).names == read_formula(whole).names


def test_formulas_are_compared_as_latex_and_read_as_text_as_text():
    formula = block(1, "equation_isolated", latex=r"\[ a = \frac{b}{c} \]")
    text = block(2, text="a sentence of words")
    found = score("$$ a=\\frac{b}{c} $$\n\na sentence of words", formula, text)
    assert (found.formula.distance, found.text.distance) == (0, 0)
    found = score("a = b/c\n\na sentence of words", formula, text)
    assert found.formula.length == 0
    assert found.text_of_formulas.distance == 0
    # lines of an array are formulas of their own
    array = block(1, "equation_isolated", latex=r"\[\begin{array}{l} a=b \\ c=d \end{array}\]")
    assert score("$$a=b$$\n\n$$c=d$$\n\na sentence of words", array, text).formula.distance == 0


def test_tables_are_assigned_and_those_too_many_are_text():
    one, two = TABLE, TABLE.replace(">a<", ">c d e f<")
    found = score(f"{two}\n\n{one}", block(1, "table", html=one), block(2, "table", html=two))
    assert found.tables == [(1, 1), (1, 1)]
    found = score(f"{two}\n\n{one}", block(1, "table", html=one), block(2, text="c d e f"))
    assert found.tables == [(1, 1)]
    assert found.text.distance == 0
    # LaTeX is never equal to the truth's HTML
    found = score(r"\begin{tabular}{ll} a & b \end{tabular}", block(1, "table", html=one))
    assert (found.tables, found.table.distance) == ([(0, 0)], 1)


@pytest.mark.parametrize("html", ["<table></table>", "<table><tbody></tbody></table>", "no table"])
def test_a_table_without_rows_is_compared(html):
    assert score(TABLE, block(1, "table", html=html)).tables == [(pytest.approx(0), pytest.approx(0))]
    assert score("", block(1, "table", html=html)).tables == [(0, 0)]
