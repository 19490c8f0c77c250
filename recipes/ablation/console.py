"""What the person sees while a grid runs: bars on a terminal, lines elsewhere, and a table at the end."""

import time
from typing import Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from recipes.ablation.cells import Cell
from recipes.ablation.prepare import Work
from recipes.rounding import notice
from recipes.run import ENDED

LINE_SECONDS = 30.0


class Console:
    """A bar for the grid and one for each running cell, with loss, tokens per second and gain.

    Args:
        work: the cells.
        rich: where to write; by default the standard output.
    """

    def __init__(self, work: Work, rich: RichConsole | None = None):
        self.work = work
        self.rich = rich or wide_console()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=self.rich,
            disable=not self.rich.is_terminal,
        )
        self.grid_bar = self.bars.add_task("grid", total=len(work.cells), text="")
        self.cell_bars: dict[Cell, TaskID] = {}
        self.began: dict[Cell, float] = {}
        self.told = time.monotonic()
        self.done = len(work.cells) - len(work.open)
        self.results = self.done

    def __enter__(self) -> Self:
        """Start drawing, after saying what is there already."""
        if self.work.ablation.question:
            self.rich.print(self.work.ablation.question, highlight=False)
        if self.done:
            self.rich.print(f"{self.done} of {len(self.work.cells)} cells have a result already", highlight=False)
        if self.work.open:
            self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    def started(self, cell: Cell) -> None:
        """A cell's process has begun."""
        self.began[cell] = time.monotonic()
        self.cell_bars[cell] = self.bars.add_task(cell.name, total=cell.costs.steps, text="starting")
        self._line(f"{cell.name}: {'goes on from its checkpoint' if cell.has_checkpoint else 'starts'}")

    def update(self, running: list[Cell]) -> None:
        """Show how far the running cells are."""
        share = 0.0
        for cell in running:
            status = cell.status
            step, steps = status.get("step") or 0, status.get("steps") or cell.costs.steps
            if steps and steps > 0:
                share += min(step / steps, 1.0)
            text = _progress(status) if step else "starting"
            self.bars.update(self.cell_bars[cell], completed=step, total=steps, text=text)
            if not self.rich.is_terminal and step and time.monotonic() - self.told > LINE_SECONDS:
                self._line(f"{cell.name}: {text}")
        if time.monotonic() - self.told > LINE_SECONDS:
            self.told = time.monotonic()
        self.bars.update(
            self.grid_bar, completed=self.done + share, text=f"{self.results}/{len(self.work.cells)} cells"
        )

    def ended(self, cell: Cell) -> None:
        """A cell's process is over."""
        self.done += 1
        status = cell.status
        self.results += status.get("status") in ENDED
        if cell in self.cell_bars:
            self.bars.remove_task(self.cell_bars.pop(cell))
        seconds = time.monotonic() - self.began.get(cell, time.monotonic())
        detail = status.get("error") or status.get("reason") or _result(status)
        colour = {"finished": "green", "diverged": "yellow"}.get(status.get("status", ""), "red")
        self.rich.print(
            Text.assemble((str(status.get("status")), colour), f" {cell.name} in {clock(seconds)}: {detail}")
        )
        if told := notice(status.get("lost_share") or 0.0):
            self.rich.print(f"  {told}", markup=False, highlight=False)
        if status.get("status") == "failed":
            self.rich.print(f"  see {cell.folder / 'log.txt'}", markup=False, highlight=False)

    def stopping(self, again: bool) -> None:
        """Ctrl-C was pressed."""
        self.rich.print("killing the cells" if again else "stopping after the current step; Ctrl-C again kills")

    def table(self) -> None:
        """A row for each cell."""
        table = Table(title=self.work.ablation.name, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("cell", overflow="fold")
        table.add_column("status", no_wrap=True)
        for name in ("steps", "val loss", "gain", "max gain", "step ms", "tokens/s"):
            table.add_column(name, justify="right", no_wrap=True)
        for cell in self.work.cells:
            status = cell.status
            table.add_row(
                cell.name,
                str(status.get("status", "not run")),
                str(status.get("step", "")),
                number(status.get("val_loss"), 3),
                number(status.get("gain_forward"), 3),
                number(status.get("gain_forward_max"), 3),
                number(status.get("step_ms"), 1),
                number(status.get("tokens_per_s"), 0),
            )
        self.rich.print(table)

    def _line(self, text: str) -> None:
        if not self.rich.is_terminal:
            self.rich.print(text, markup=False, highlight=False)


def _progress(status: dict[str, Any]) -> str:
    parts = [f"{status.get('step')}/{status.get('steps')}"]
    for key, name, digits in (("loss", "loss", 3), ("tokens_per_s", "tokens/s", 0), ("gain_forward", "gain", 3)):
        if status.get(key) is not None:
            parts.append(f"{name} {number(status[key], digits)}")
    return ", ".join(parts)


def _result(status: dict[str, Any]) -> str:
    parts = [
        f"{name} {number(status[key], 3)}"
        for key, name in (("val_loss", "val loss"), ("gain_forward", "gain"), ("step_ms", "step ms"))
        if status.get(key) is not None
    ]
    return ", ".join(parts) or f"step {status.get('step')}"


def wide_console() -> RichConsole:
    """The standard output; where it is no terminal, lines are not cut to 80 characters."""
    console = RichConsole()
    return console if console.is_terminal else RichConsole(width=160)


def number(value: Any, digits: int) -> str:
    """A number for people, nothing for None."""
    if not isinstance(value, (int, float)):
        return ""
    return f"{value:.3g}" if digits and abs(value) >= 1e5 else f"{value:,.{digits}f}"


def clock(seconds: float) -> str:
    """Seconds as 42 s, 3 min 10 s or 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
