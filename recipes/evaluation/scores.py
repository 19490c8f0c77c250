"""Averages over pages, as OmniDocBench's headline takes them.

An edit distance of a page is its edits over its longer lengths; its TEDS is the mean over its tables, its CDM that over
its displayed formulas; the average is the mean over the pages that have the element. A page without a prediction is in
no average (the benchmark's v1.5 says so and goes on); one whose prediction is empty is wrong in all of it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from recipes.evaluation.page import PageScores, Tally
from recipes.evaluation.truth import ATTRIBUTES, Page

Scores = dict[str, dict[str, float | None]]


def page_scores(page: PageScores, *, formulas_as_text: bool) -> Scores:
    """A page's own scores, None for what it does not have."""
    text = Tally(page.text.edits, page.text.length)
    if formulas_as_text:
        text.edits += page.text_of_formulas.edits
        text.length += page.text_of_formulas.length
    cdm = {} if page.cdm is None else {"cdm": _mean(page.cdm)}
    full, bare = zip(*page.tables, strict=True) if page.tables else ((), ())
    return {
        "text_block": {"edit_distance": text.distance},
        "display_formula": {"edit_distance": page.formula.distance, **cdm},
        "table": {"teds": _mean(full), "teds_structure": _mean(bare), "edit_distance": page.table.distance},
        "reading_order": {"edit_distance": page.order.distance},
    }


def average(pages: Iterable[Scores]) -> Scores:
    """Mean over the pages that have the element, of at least one page."""
    pages = list(pages)
    return {
        element: {
            metric: _mean([value for page in pages if (value := page[element][metric]) is not None])
            for metric in metrics
        }
        for element, metrics in pages[0].items()
    }


def summarise(pages: Sequence[Page], scores: Mapping[str, PageScores]) -> dict[str, Any]:
    """Averages over all pages, the same by page type, language and layout, and each page's own scores."""
    # formulas that were read as text are text only where some page has a text: the benchmark drops them otherwise
    formulas_as_text = any(page.has_text for page in scores.values())
    known = [page for page in pages if page.name in scores]
    single = {page.name: page_scores(scores[page.name], formulas_as_text=formulas_as_text) for page in known}
    groups = {
        shown: _groups(known, single, lambda page, shown=shown: page.attributes.get(shown)) for shown in ATTRIBUTES
    }
    return {**average(single.values()), "groups": groups, "pages": single}


def _groups(
    pages: Sequence[Page], scores: Mapping[str, Scores], key: Callable[[Page], str | None]
) -> dict[str, dict[str, Any]]:
    members: dict[str, list[Scores]] = {}
    for page in pages:
        name = key(page)
        if name is not None:
            members.setdefault(name, []).append(scores[page.name])
    return {name: {"count": len(members[name]), **average(members[name])} for name in sorted(members)}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
