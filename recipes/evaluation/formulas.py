"""Displayed formulas of all pages, drawn with TeX and compared."""

from collections.abc import Callable, Mapping
from functools import partial

from recipes.evaluation.page import PageScores
from recipes.evaluation.processes import spread
from recipes.metrics.characters import Agreement, compare_formulas

# formulas and their predictions in one document
TOGETHER = 16
# fewer are drawn before a process has started
WORTH_A_PROCESS = 48

Work = list[tuple[str, tuple[str, str]]]


def compare_pages(
    scores: Mapping[str, PageScores], engine: str, jobs: int, report: Callable[[str], None]
) -> dict[str, int]:
    """Give the pages their CDM; returns how many pairs of each page have a formula that TeX cannot draw.

    Args:
        scores: by page.
        engine: of `recipes.metrics.formula_drawing.find_engine`.
        jobs: processes at most.
        report: called with a page's name once for each of its formulas.

    Raises:
        UserError: a process was killed.
    """
    for page in scores.values():
        page.cdm = []
    work: Work = [(name, pair) for name, page in scores.items() for pair in page.formulas]
    parts = [work[start : start + TOGETHER] for start in range(0, len(work), TOGETHER)]
    undrawn: dict[str, int] = {}
    for results in spread(partial(_compare, engine), parts, min(jobs, len(work) // WORTH_A_PROCESS)):
        for name, found, drawn in results:
            scores[name].cdm.append(found)
            if not drawn:
                undrawn[name] = undrawn.get(name, 0) + 1
            report(name)
    return undrawn


def _compare(engine: str, work: Work) -> list[tuple[str, float, bool]]:
    """Score of each, and whether all of it could be drawn."""
    pairs = [pair for _, pair in work]
    return [
        (name, found.score if found else 0.0, _drawn(pair, found))
        for (name, pair), found in zip(work, compare_formulas(pairs, engine), strict=True)
    ]


def _drawn(pair: tuple[str, str], found: Agreement | None) -> bool:
    return found is not None and (found.predicted > 0 or not pair[0].strip()) and found.true > 0
