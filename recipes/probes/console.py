"""What the person sees while pages are probed."""

import contextlib
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from recipes.ablation.console import wide_console


@contextlib.contextmanager
def progress(passes: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, nothing elsewhere; gives what is called after each pass of a page."""
    console = wide_console()
    columns = TextColumn("pages"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("pages", total=passes)
        yield lambda: bar.advance(task)
