"""Work over processes."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from recipes.errors import UserError

Work, Result = TypeVar("Work"), TypeVar("Result")


def spread(function: Callable[[Work], Result], work: Sequence[Work], jobs: int, *, chunk: int = 1) -> Iterator[Result]:
    """Results in the order of the work, in this process where there is less than two jobs.

    Raises:
        UserError: a process was killed.
    """
    if jobs < 2:
        yield from map(function, work)
        return
    # a new interpreter each: threads of this one would be lost in a copy of it
    with ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        try:
            yield from pool.map(function, work, chunksize=chunk)
        except BrokenProcessPool:
            raise UserError("a process was killed, perhaps for its memory; give --jobs 1") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
