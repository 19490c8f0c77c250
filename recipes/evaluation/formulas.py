"""Displayed formulas of all pages, drawn with TeX and compared."""

from collections.abc import Callable, Mapping
from functools import partial

from recipes.evaluation.page import PageScores
from recipes.evaluation.processes import spread
from recipes.metrics.characters import Agreement, compare_formulas
from recipes.metrics.formula_drawing import TIMEOUT

# formulas and their predictions in one document
TOGETHER = 16
# fewer are drawn before a process has started
WORTH_A_PROCESS = 48
# why a formula has no symbols
BROKEN, LATE = "that TeX cannot draw", f"that TeX took longer than {TIMEOUT} s to draw"

Work = list[tuple[str, tuple[str, str]]]


def compare_pages(
    scores: Mapping[str, PageScores], engine: str, jobs: int, report: Callable[[str], None]
) -> dict[str, dict[str, int]]:
    """Give the pages their CDM; returns, by reason, how many pairs of each page have a formula that was not drawn.

    A pair of empty formulas is not counted.

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
    undrawn: dict[str, dict[str, int]] = {BROKEN: {}, LATE: {}}
    for results in spread(partial(_compare, engine), parts, min(jobs, len(work) // WORTH_A_PROCESS)):
        for name, score, reason in results:
            if score is not None:
                scores[name].cdm.append(score)
            if reason:
                undrawn[reason][name] = undrawn[reason].get(name, 0) + 1
            report(name)
    return undrawn


def _compare(engine: str, work: Work) -> list[tuple[str, float | None, str]]:
    """Score of each, None where both are empty, and why not all of it was drawn, empty where it was."""
    pairs = [pair for _, pair in work]
    return [
        (name, None, "") if found is None else (name, found.score, _reason(pair, found))
        for (name, pair), found in zip(work, compare_formulas(pairs, engine), strict=True)
    ]


def _reason(pair: tuple[str, str], found: Agreement) -> str:
    if found.late:
        return LATE
    return "" if (found.predicted or not pair[0].strip()) and found.true else BROKEN
