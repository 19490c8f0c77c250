"""What the person sees: a bar over the pages, and the benchmark's table."""

import sys
import time
from typing import Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

COLUMNS = {
    "text ED ↓": ("text_block", "edit_distance"),
    "formula ED ↓": ("display_formula", "edit_distance"),
    "CDM ↑": ("display_formula", "cdm"),
    "table TEDS ↑": ("table", "teds"),
    "TEDS-S ↑": ("table", "teds_structure"),
    "table ED ↓": ("table", "edit_distance"),
    "order ED ↓": ("reading_order", "edit_distance"),
}


class Console:
    """A bar over `total` pages or formulas, drawn on a terminal alone."""

    def __init__(self, total: int, what: str = "pages") -> None:
        rich = RichConsole()
        self.rich = rich if rich.is_terminal else RichConsole(width=160)
        self.total, self.what, self.done, self.began = total, what, 0, time.monotonic()
        self.bar = Progress(
            TextColumn(what),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.rich,
            disable=not self.rich.is_terminal,
        )
        self.task = self.bar.add_task(what, total=total)

    def __enter__(self) -> Self:
        """Start drawing."""
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def step(self, name: str) -> None:
        """One is done; elsewhere than on a terminal, a line for every tenth of them."""
        self.done += 1
        self.bar.update(self.task, advance=1)
        tenth = max(1, self.total // 10)
        if not self.rich.is_terminal and self.total >= 50 and self.done % tenth == 0:
            self.line(f"{self.done} of {self.total} {self.what}, {time.monotonic() - self.began:.0f} s: {name}")

    def line(self, text: str) -> None:
        """One line."""
        self.rich.print(text, markup=False, highlight=False, soft_wrap=True)

    def table(self, scores: dict[str, Any], title: str) -> None:
        """Overall, by page type, by language and by layout."""
        table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("", overflow="fold")
        table.add_column("pages", justify="right")
        for name in _columns(scores):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_row("overall", str(len(scores["pages"])), *_row(scores), end_section=True)
        for group, members in scores["groups"].items():
            for name, found in members.items():
                table.add_row(f"{group}: {name}", str(found["count"]), *_row(found))
            table.add_section()
        self.rich.print(table)


def tell(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr)


def _row(scores: dict[str, Any]) -> list[str]:
    values = [scores[element][metric] for element, metric in _columns(scores).values()]
    return ["–" if value is None else f"{value:.4f}" for value in values]


def _columns(scores: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """All, or all but what was left out."""
    return {name: place for name, place in COLUMNS.items() if place[1] in scores[place[0]]}
