"""What the person sees while pages are read: a bar on a terminal, a line a page elsewhere, and a summary."""

import time
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from recipes.ablation.console import LINE_SECONDS, clock, wide_console
from recipes.reading.lines import shown, tell, write
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
        self.pages, self.failures, self.skipped = pages, failures, skipped
        self.stopped = False
        self.done = self.read = self.tokens = self.cut = 0
        self.began = self.told = time.monotonic()
        self.rich = wide_console()
        # failures go to stderr, which the bar then prints above itself
        self.bar = Progress(
            TextColumn("pages"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=self.rich,
            disable=not self.rich.is_terminal,
        )
        self.task = self.bar.add_task("pages", total=pages, text="")

    def __enter__(self) -> Self:
        """Start drawing, and counting time."""
        self.began = self.told = time.monotonic()
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def note(self, text: str) -> None:
        """A line by itself."""
        if self.rich.is_terminal:
            self.bar.console.print(shown(text), markup=False, highlight=False, soft_wrap=True)
        else:
            write(text)

    def step(self, tokens: int, pages: int = 1) -> None:
        """So many tokens a page of the current batch of so many pages."""
        text = f"token {tokens:,}{self._speed(self.tokens + tokens * pages)}"
        self.bar.update(self.task, text=text)
        if not self.rich.is_terminal and time.monotonic() - self.told > LINE_SECONDS:
            self.note(f"{self.done} of {count(self.pages, 'page')}, {text}")
            self.told = time.monotonic()

    def wrote(self, page: Page, reading: Reading) -> None:
        """A page's file is there."""
        self.read += 1
        self.tokens += reading.tokens
        self.cut += not reading.ended
        self._advance()
        note = "" if reading.ended else ", which is the limit: it may repeat itself or be cut off"
        if note or not self.rich.is_terminal:
            place = f"{self.done}/{self.pages} "
            self.note(f"{place}{page.label} -> {page.target}: {count(reading.tokens, 'token')}{note}")
            self.told = time.monotonic()

    def failed(self, error: Exception) -> None:
        """A page cannot be read; the others go on."""
        self.failures += 1
        self._advance()
        tell(error)

    def summary(self) -> None:
        """One line on everything."""
        seconds = time.monotonic() - self.began
        rate = f", {self.tokens / seconds:,.0f} tokens/s" if self.tokens and seconds > 0 else ""
        parts = [
            f"{count(self.read, 'page')} read in {clock(seconds)}: {self.tokens:,} tokens{rate}",
            f"{self.failures} failed",
            *([f"{self.pages - self.done} not reached"] if self.done < self.pages else []),
            *([f"{self.skipped} there already"] if self.skipped else []),
            *([f"{self.cut} without an end"] if self.cut else []),
        ]
        self.note("; ".join(parts))

    def _advance(self) -> None:
        self.done += 1
        self.bar.update(self.task, advance=1, text=self._speed(self.tokens).removeprefix(", "))

    def _speed(self, tokens: int) -> str:
        seconds = time.monotonic() - self.began
        speed = f", {tokens / seconds:,.0f} tokens/s" if tokens and seconds > 0 else ""
        left = seconds / self.done * (self.pages - self.done) if self.done else None
        return speed if left is None else f"{speed}, {clock(left)} left"
