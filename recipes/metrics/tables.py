"""Tree edit distance between tables (TEDS: Zhong et al., arXiv 1911.10683, eq. 1, with OmniDocBench's costs)."""

from collections.abc import Iterable

from lxml import etree, html

from recipes.metrics.trees import Node, tree_distance


def table_similarity(prediction: str, truth: str) -> tuple[float, float]:
    """TEDS and TEDS-S of two HTML documents: 1 - d / max(elements below the table), and the same with cells emptied.

    0 where one has no table in its body, or a span is no number; below 0 where the edits are more than the elements.
    """
    try:
        trees = [_tree(prediction), _tree(truth)]
    except (etree.ParserError, ValueError):
        return 0.0, 0.0
    if None in trees:
        return 0.0, 0.0
    (first, below), (second, other) = (tree for tree in trees if tree)
    nodes = max(below, other)
    if not nodes:
        # both tables are bare: the benchmark divides by zero there, and counts 0
        return 0.0, 0.0
    full = tree_distance(first, second)
    bare = tree_distance(emptied(first), emptied(second))
    return 1 - full / nodes, 1 - bare / nodes


def emptied(node: Node) -> Node:
    """The tree without its cells' contents."""
    return Node(node.tag, node.span, (), [emptied(child) for child in node.children])


def _tree(document: str) -> tuple[Node, int] | None:
    """The first table of the body, and the number of elements below it."""
    if not document:
        return None
    parsed = html.fromstring(document, parser=html.HTMLParser(remove_comments=True, encoding="utf-8"))
    tables = parsed.xpath("body/table")
    return (_node(tables[0]), len(tables[0].xpath(".//*"))) if tables else None


def _node(element: etree._Element) -> Node:
    if element.tag != "td":
        return Node(element.tag, children=[_node(child) for child in element])
    span = int(element.get("colspan", "1")), int(element.get("rowspan", "1"))
    return Node("td", span, tuple(_inside(element)))


def _inside(element: etree._Element) -> Iterable[str]:
    """Characters and tags between an element's own tags; what follows a cell inside a cell is not read."""
    yield from element.text or ""
    for child in element:
        yield f"<{child.tag}>"
        yield from _inside(child)
        if child.tag != "unk":
            yield f"</{child.tag}>"
        if child.tag != "td":
            yield from child.tail or ""
