"""The plan: what a grid would run and cost, without running it."""

import statistics
import time

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from recipes.ablation.cells import Cell
from recipes.ablation.console import clock, wide_console
from recipes.ablation.prepare import Work
from recipes.run import read_status

# imports, reading the corpus and writing figures, in a process of its own
START_SECONDS = 10.0
# where an estimate comes from: step times of finished cells, or the speed of matrix products, a lower bound
MEASURED, MATMUL = "measured", "matmul"


def show(work: Work, jobs: int, console: Console | None = None) -> None:
    """Print the cells, what each costs, and how long those without a result would take."""
    console = console or wide_console()
    if work.ablation.question:
        console.print(work.ablation.question, highlight=False)
    table = Table(
        title=f"{work.ablation.name}: {len(work.cells)} cells", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    table.add_column("cell", overflow="fold")
    for name in ("parameters", "FLOPs/token", "tokens", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("from")
    if any(cell.matched for cell in work.cells):
        table.add_column("matched")
    table.add_column("status")
    rate = _Calibration()
    total, known, guessed = 0.0, True, False
    for cell in work.cells:
        seconds, origin = _estimate(cell, work, rate)
        if cell in work.open:
            total, known = total + (seconds or 0.0), known and seconds is not None
            guessed = guessed or origin == MATMUL
        costs = cell.costs
        tokens = costs.tokens_per_step * costs.steps if costs.tokens_per_step and costs.steps else None
        matched = [", ".join(f"{path.rsplit('.', 1)[-1]} {value}" for path, value in (cell.matched or {}).items())]
        table.add_row(
            cell.name,
            f"{costs.parameters:,}",
            "" if costs.flops_per_token is None else f"{costs.flops_per_token:.3g}",
            "" if tokens is None else f"{tokens:,}",
            "" if seconds is None else clock(seconds),
            origin,
            *(matched if any(other.matched for other in work.cells) else []),
            "runs" if cell in work.open else str(cell.status.get("status")),
        )
    console.print(table)
    left = len(work.open)
    if known:
        guess = "at least" if guessed else "about"
        console.print(f"{left} cells to run, {guess} {clock(total / min(jobs, max(left, 1)))} with {jobs} at a time")
    else:
        console.print(f"{left} cells to run; this machine cannot tell for how long")
    console.print("time is measured in finished cells, or a lower bound from the speed of matrix products")
    console.print(f"results go to {work.folder}", highlight=False)


def _estimate(cell: Cell, work: Work, rate: "_Calibration") -> tuple[float | None, str]:
    """Seconds of a cell and where they come from."""
    costs = cell.costs
    if costs.steps is None:
        return None, "no trainer.max_steps"
    measured = _finished_step_ms(cell, work)
    if measured is not None:
        return START_SECONDS + costs.steps * measured / 1000, MEASURED
    if work.ablation.scale == "gpu" and not torch.cuda.is_available():
        return None, "needs a GPU"
    if costs.flops_per_token is None or costs.tokens_per_step is None:
        return None, "no budget"
    width = int((cell.tree["model"].get("init_args") or {}).get("width") or 512)
    flops = costs.flops_per_token * costs.tokens_per_step * costs.steps
    return START_SECONDS + flops / rate.flops_per_second(width, costs.tokens_per_step), MATMUL


def _finished_step_ms(cell: Cell, work: Work) -> float | None:
    """Median step time of this variant's finished cells in the folder, at any seed."""
    times = []
    for path in sorted((work.folder / cell.variant.name).glob("seed-*")):
        status = read_status(path)
        if status.get("status") == "finished" and status.get("step_ms"):
            times.append(float(status["step_ms"]))
    return statistics.median(times) if times else None


class _Calibration:
    """Matrix-product speed of this machine, measured once per shape."""

    def __init__(self) -> None:
        self._rates: dict[tuple[int, int], float] = {}

    def flops_per_second(self, width: int, tokens: int) -> float:
        """FLOP/s of [tokens, width] times [width, 4 width], the best of some runs."""
        shape = (width, min(tokens, 8192))
        if shape not in self._rates:
            device, threads = "cuda" if torch.cuda.is_available() else "cpu", torch.get_num_threads()
            left, right = torch.randn(shape[1], width, device=device), torch.randn(width, 4 * width, device=device)
            times = []
            # one thread times their number: threads that wait for each other on a busy machine tell nothing
            torch.set_num_threads(1)
            for _ in range(20):
                began = time.perf_counter()
                float((left @ right)[0, 0])
                times.append(time.perf_counter() - began)
            torch.set_num_threads(threads)
            share = threads if device == "cpu" else 1
            self._rates[shape] = 8 * shape[1] * width**2 / min(times) * share
        return self._rates[shape]
