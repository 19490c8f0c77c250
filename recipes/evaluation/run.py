"""All pages, over processes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recipes.evaluation.page import PageScores, score_page
from recipes.evaluation.predictions import read_prediction
from recipes.evaluation.processes import spread
from recipes.evaluation.truth import Page, PageError

# fewer pages are done before a process has started
WORTH_A_PROCESS = 24


@dataclass
class Outcome:
    """What came of the pages.

    Attributes:
        scores: of each page that was compared.
        broken: pages that could not be, and why.
        missing: pages without a prediction.
    """

    scores: dict[str, PageScores] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def evaluate(
    pages: Sequence[Page], predictions: Mapping[str, Path], jobs: int, report: Callable[[str], None]
) -> Outcome:
    """Score the pages that have a prediction.

    Args:
        pages: of the truth.
        predictions: by page.
        jobs: processes at most.
        report: called with each page's name once it is done.

    Raises:
        UserError: a process was killed.
    """
    outcome = Outcome(missing=[page.name for page in pages if page.name not in predictions])
    work = [(page, predictions[page.name]) for page in pages if page.name in predictions]
    for name, found in spread(_score, work, min(jobs, len(work) // WORTH_A_PROCESS), chunk=4):
        if isinstance(found, PageScores):
            outcome.scores[name] = found
        else:
            outcome.broken[name] = found
        report(name)
    return outcome


def _score(work: tuple[Page, Path]) -> tuple[str, PageScores | str]:
    page, path = work
    try:
        return page.name, score_page(page, read_prediction(path))
    except PageError as error:
        return page.name, str(error)
