"""All pages, over processes."""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from recipes.errors import UserError
from recipes.evaluation.page import PageScores, score_page
from recipes.evaluation.predictions import read_prediction
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
    jobs = min(jobs, len(work) // WORTH_A_PROCESS)
    if jobs < 2:
        _collect(outcome, map(_score, work), report)
        return outcome
    # a new interpreter each: threads of this one would be lost in a copy of it
    with ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        try:
            _collect(outcome, pool.map(_score, work, chunksize=4), report)
        except BrokenProcessPool:
            raise UserError("a process was killed, perhaps for its memory; give --jobs 1") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return outcome


def _collect(outcome: Outcome, results: Iterable[tuple[str, PageScores | str]], report: Callable[[str], None]) -> None:
    for name, found in results:
        if isinstance(found, PageScores):
            outcome.scores[name] = found
        else:
            outcome.broken[name] = found
        report(name)


def _score(work: tuple[Page, Path]) -> tuple[str, PageScores | str]:
    page, path = work
    try:
        return page.name, score_page(page, read_prediction(path))
    except PageError as error:
        return page.name, str(error)
