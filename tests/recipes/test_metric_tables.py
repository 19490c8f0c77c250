"""TEDS: the tree distance against the recursion itself and apted, and what counts as the same table."""

import functools
import random

import pytest
from apted import APTED, Config
from hypothesis import given
from hypothesis import strategies as st

from recipes.metrics.distance import normalised_distance
from recipes.metrics.html_tables import cell_texts, normalise_table
from recipes.metrics.table import TEDS, StructureTEDS
from recipes.metrics.tables import emptied, table_similarity
from recipes.metrics.trees import Node, tree_distance


def rename(first: Node, second: Node) -> float:
    if first.tag != second.tag or first.span != second.span:
        return 1.0
    return normalised_distance(first.content, second.content)


def brute_force(first: Node, second: Node) -> float:
    """All ways to edit the last tree of either forest."""
    nodes = {}

    def frozen(node: Node) -> tuple:
        nodes[id(node)] = node
        return id(node), tuple(frozen(child) for child in node.children)

    @functools.cache
    def distance(a: tuple, b: tuple) -> float:
        if not a or not b:
            return sum(1 + distance(children, ()) for _, children in a or b)
        (x, below), (y, under) = a[-1], b[-1]
        return min(
            distance(a[:-1] + below, b) + 1,
            distance(a, b[:-1] + under) + 1,
            distance(a[:-1], b[:-1]) + distance(below, under) + rename(nodes[x], nodes[y]),
        )

    return distance((frozen(first),), (frozen(second),))


class Costs(Config):
    def rename(self, node1, node2):
        return rename(node1, node2)


def random_tree(size: int, generator: random.Random) -> Node:
    def node() -> Node:
        return Node(generator.choice("ab"), None, tuple(generator.choices("xyz", k=generator.randint(0, 3))))

    nodes = [node()]
    for _ in range(size - 1):
        child, parent = node(), generator.choice(nodes)
        parent.children.insert(generator.randint(0, len(parent.children)), child)
        nodes.append(child)
    return nodes[0]


def random_table(generator: random.Random) -> Node:
    def row() -> Node:
        cells = [
            Node("td", (generator.choice((1, 1, 2)), 1), tuple(generator.choices("123", k=generator.randint(0, 4))))
            for _ in range(generator.randint(0, 4))
        ]
        return Node("tr", children=cells)

    return Node("table", children=[row() for _ in range(generator.randint(0, 6))])


def test_the_distance_of_tiny_trees_equals_the_recursion():
    generator = random.Random(0)
    for _ in range(80):
        first, second = (random_tree(generator.randint(1, 9), generator) for _ in range(2))
        assert tree_distance(first, second) == pytest.approx(brute_force(first, second))


def test_the_distance_of_tables_equals_apted():
    generator = random.Random(1)
    for _ in range(60):
        first, second = random_table(generator), random_table(generator)
        assert tree_distance(first, second) == pytest.approx(APTED(first, second, Costs()).compute_edit_distance())
        assert tree_distance(first, first) == 0
        assert tree_distance(first, second) == pytest.approx(tree_distance(second, first))


def test_a_deep_tree_is_no_matter():
    chain = Node("a")
    for _ in range(3000):
        chain = Node("a", children=[chain])
    assert tree_distance(chain, Node("a")) == 3000
    assert emptied(Node("a", content=("x",))) == Node("a")


def html(*rows: str) -> str:
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def teds(prediction: str, truth: str) -> tuple[float, float]:
    return table_similarity(normalise_table(prediction), normalise_table(truth))


SQUARE = html("<td>ab</td><td>c</td>", "<td>d</td><td></td>")


@pytest.mark.parametrize(
    ("other", "full", "structure"),
    [
        (SQUARE, 1, 1),
        # 6 elements below the table
        (html("<td>ax</td><td>c</td>", "<td>d</td><td></td>"), 1 - 0.5 / 6, 1),
        (html("<td>ab</td><td>c</td>", "<td>d</td>"), 1 - 1 / 6, 1 - 1 / 6),
        (html("<td colspan='2'>ab</td><td>c</td>", "<td>d</td><td></td>"), 1 - 1 / 6, 1 - 1 / 6),
        # head and body, names of cells, looks and blanks make no difference
        (
            '<table class="x"><thead>\n<tr style="color: red">\n <th align="left">ab</th><th>c</th></tr></thead>'
            "<tbody><tr><td><span>d</span></td><td></td></tr></tbody></table>",
            1,
            1,
        ),
        (html("<td>ａｂ</td><td>c</td>", "<td><p>d</p></td><td></td>"), 1, 1),
        ("no table", 0, 0),
        ("", 0, 0),
        (html("<td colspan='all'>ab</td>"), 0, 0),
    ],
)
def test_what_makes_tables_differ(other, full, structure):
    assert teds(other, SQUARE) == pytest.approx((full, structure))
    assert teds(SQUARE, other) == pytest.approx((full, structure))


def test_a_table_without_rows_is_no_table_but_that_of_a_prediction_is_compared():
    assert teds("<table></table>", "<table></table>") == (0, 0)
    assert teds("<table></table>", SQUARE) == pytest.approx((0, 0))


def test_html_that_is_not_closed_is_closed():
    assert teds("<table><tr><td>ab</td><td>c</td></tr><tr><td>d</td><td></td></table>", SQUARE) == (1, 1)
    assert teds("<table><tr><td>ab<td>c<tr><td>d<td></table>", SQUARE) == (1, 1)
    assert normalise_table("<table><tr></b><td>a<br>b</table>") == (
        '<html><body><table border="1" ><tr><td>a<br/>b</td></tr></table></body></html>'
    )


def test_texts_in_pieces_and_unknown_characters():
    table = html("<td>R&D x < y</td><td>&foo; &#65; &nbsp;</td>")
    # names of characters are read as BeautifulSoup reads them
    assert "<td>R&D x < y</td><td>&foo A </td>" in normalise_table(table)
    assert cell_texts("<table><tr><td>x < y") == ["x < y"]


def test_mathematics_and_comments_in_cells():
    table = html('<td><math alttext="x<y"><mi>x</mi></math><!-- z -->a &amp; b</td>')
    assert "<td>$x<y$<!-- z -->a & b</td>" in normalise_table(table)


def test_the_texts_of_cells_are_those_that_hold_one_text():
    table = html("<td> a </td><td><b>b</b></td><td>c<br>d</td><td></td><th>e</th>", r"<td>f$\cdot$</td>")
    assert cell_texts(table) == ["a", "b", "f"]


@given(st.text("<>/td r&\"='\nα", max_size=40))
def test_whatever_is_written_gives_a_similarity(text):
    for score in teds(f"<table>{text}</table>", SQUARE):
        assert -1 <= score <= 1


def test_metrics_are_means_over_tables_and_processes():
    other = html("<td>ax</td><td>c</td>", "<td>d</td><td></td>")
    for make, expected in ((TEDS, (1 - 0.5 / 6 + 0) / 2), (StructureTEDS, 0.5)):
        one, two = make(), make()
        one.update([other], [SQUARE])
        two.update([""], [SQUARE])
        one.merge_state(two)
        assert one.compute() == pytest.approx(expected)
        with pytest.raises(ValueError, match="every prediction needs its truth"):
            one.update([], [SQUARE])
