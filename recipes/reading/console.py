"""What the person sees while pages are read: a bar on a terminal, a line a page elsewhere, and a summary."""

import sys
import time
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from recipes.ablation.console import clock, wide_console
from recipes.reading.plan import Page
from recipes.reading.reader import Reading
from recipes.reports.format import count


class Console:
    """A bar over the pages, and counts for the summary.

    Args:
        pages: how many are to be read.
        failures: how many inputs failed before.
        skipped: how many pages have their file.
    """

    def __init__(self, pages: int, failures: int = 0, skipped: int = 0) -> None:
        self.failures, self.skipped = failures, skipped
        self.read = self.tokens = self.cut = 0
        self.began = time.monotonic()
        self.rich = wide_console()
        # failures go to stderr, which the bar then prints above itself
        self.bar = Progress(
            TextColumn("pages"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=self.rich,
            disable=not self.rich.is_terminal,
        )
        self.task = self.bar.add_task("pages", total=pages, text="")

    def __enter__(self) -> Self:
        """Start drawing."""
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def step(self, tokens: int) -> None:
        """So many tokens a page of the current batch."""
        self.bar.update(self.task, text=f"token {tokens:,}")

    def wrote(self, page: Page, reading: Reading) -> None:
        """A page's file is there."""
        self.read += 1
        self.tokens += reading.tokens
        self.cut += not reading.ended
        self.bar.update(self.task, advance=1)
        note = "" if reading.ended else ", which is the limit: it may repeat itself or be cut off"
        if note or not self.rich.is_terminal:
            line = f"{page.label} -> {page.target}: {count(reading.tokens, 'token')}{note}"
            self.bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def failed(self, error: Exception) -> None:
        """A page cannot be read; the others go on."""
        self.failures += 1
        self.bar.update(self.task, advance=1)
        tell(error)

    def summary(self) -> None:
        """One line on everything."""
        seconds = time.monotonic() - self.began
        rate = f", {self.tokens / seconds:,.0f} tokens/s" if self.tokens and seconds > 0 else ""
        parts = [
            f"{count(self.read, 'page')} read in {clock(seconds)}: {self.tokens:,} tokens{rate}",
            f"{self.failures} failed",
            *([f"{self.skipped} there already"] if self.skipped else []),
            *([f"{self.cut} without an end"] if self.cut else []),
        ]
        self.rich.print("; ".join(parts), markup=False, highlight=False, soft_wrap=True)


def tell(error: Exception) -> None:
    """One line on stderr."""
    print(f"error: {error}", file=sys.stderr)
