"""The driver: a process a cell, some side by side, each finished, diverged, failed or interrupted on its own."""

import fcntl
import importlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import recipes
from recipes.ablation import plan
from recipes.ablation.cells import Cell
from recipes.ablation.console import Console, wide_console
from recipes.ablation.options import Options
from recipes.ablation.prepare import Work, prepare
from recipes.configuration import Source
from recipes.errors import UserError
from recipes.files import replace_file
from recipes.run import CELL, ENDED, write_status

POLL_SECONDS = 0.2
# Ctrl-C again, this long after the first, kills
PATIENCE_SECONDS = 0.5


def run_ablation(source: Source, options: Options) -> int:
    """Run the cells that have no result yet, then the report; returns the exit code.

    Raises:
        UserError: before anything is written.
    """
    with wide_console().status("checking every variant"):
        work = prepare(source, options)
    jobs = options.jobs or work.ablation.jobs
    if options.plan:
        plan.show(work, jobs)
        return 0
    with _locked(work.folder) as lock:
        for folder in work.stale:
            _remove(folder)
        replace_file(work.folder / "ablation.yaml", source.text)
        console = Console(work)
        interrupted = Grid(work, jobs, lock, console).run()
    console.table()
    if interrupted:
        print(f"interrupted; the same command goes on from the last step\n{work.folder}", file=sys.stderr)
        return 128 + signal.SIGINT
    # the report needs plotting libraries that the grid does not
    answer = importlib.import_module("recipes.report").write_report(work.folder)
    print(f"{answer}\n{work.folder / 'report.md'}\ntensorboard --logdir {work.folder}")
    return 0 if all(cell.ended for cell in work.cells) else 1


def _remove(folder: Path) -> None:
    """Remove a cell that is started over; raises UserError where a part of it would stay."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: cannot be removed for --ablation.restart: {error.strerror}; "
            "remove it by hand, or give another folder with --ablation.output DIR"
        ) from None


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Hold the folder for this driver and its cells; raises UserError where another driver holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written: {error.strerror}; give another place with --ablation.output DIR"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise UserError(
            f"{folder}: another run of it is going on; wait for it, or give another folder with --ablation.output DIR"
        ) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Grid:
    """The processes of a grid.

    Args:
        work: cells to run.
        jobs: cells side by side.
        lock: descriptor that a cell's process keeps open, so that the folder is held while any lives.
        console: told of every start, progress and end.
    """

    def __init__(self, work: Work, jobs: int, lock: int, console: Console):
        self.work, self.jobs, self.lock, self.console = work, jobs, lock, console
        self.waiting = list(work.open)
        self.running: dict[Cell, subprocess.Popen[bytes]] = {}
        self.signals = 0
        self.pressed = 0.0

    def run(self) -> bool:
        """Run until every cell has ended or Ctrl-C; returns whether it was interrupted."""
        handlers = self._take_signals()
        told = 0
        try:
            with self.console:
                while self.running or (self.waiting and not self.signals):
                    while self.waiting and len(self.running) < self.jobs and not self.signals:
                        self._start(self.waiting.pop(0))
                    time.sleep(POLL_SECONDS)
                    if self.signals > told:
                        told = self.signals
                        self._send(signal.SIGTERM if told == 1 else signal.SIGKILL)
                        self.console.stopping(again=told > 1)
                    for cell, process in list(self.running.items()):
                        if process.poll() is not None:
                            del self.running[cell]
                            self._end(cell, process.returncode)
                    self.console.update(list(self.running))
        finally:
            self._send(signal.SIGKILL)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self.signals > 0

    def _start(self, cell: Cell) -> None:
        try:
            cell.write(self.work.ablation, shared=self.jobs > 1)
            write_status(cell.folder, status="running", error=None, reason=None, pid=None, updated=time.time())
            with (cell.folder / "log.txt").open("ab") as log:
                self.running[cell] = subprocess.Popen(
                    [sys.executable, "-m", "recipes.fit", "--config", str(cell.folder / "config.yaml")],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment(),
                    process_group=0,
                    pass_fds=(self.lock,),
                )
        except OSError as error:
            write_status(cell.folder, status="failed", error=f"{type(error).__name__}: {error}")
            self.console.ended(cell)
            return
        self.console.started(cell)

    def _environment(self) -> dict[str, str]:
        home = str(Path(recipes.__file__).parents[1])
        paths = [home, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        more = {CELL: str(os.getpid()), "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
        threads = self.work.ablation.threads
        if threads is None and self.jobs > 1:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            threads = max(1, cores // self.jobs)
        if threads is not None:
            more["OMP_NUM_THREADS"] = str(threads)
        return {**os.environ, **more}

    def _end(self, cell: Cell, code: int) -> None:
        """Record how a cell's process ended, where it could not do so itself."""
        status = cell.status.get("status")
        if status not in ENDED:  # what was written as a result stays one, however the process went
            if self.signals or (status == "interrupted" and code >= 0):
                write_status(cell.folder, status="interrupted", updated=time.time())
            else:
                error = cell.status.get("error") if status == "failed" else None
                write_status(cell.folder, status="failed", error=error or _reason(cell, code), updated=time.time())
        self.console.ended(cell)

    def _send(self, number: signal.Signals) -> None:
        for process in self.running.values():
            try:
                os.killpg(process.pid, number)
            except (ProcessLookupError, PermissionError):
                continue

    def _take_signals(self) -> dict[int, object]:
        if threading.current_thread() is not threading.main_thread():
            return {}

        def note(number: int, frame: FrameType | None) -> None:
            # `timeout` and some shells send a signal to the process and to its group: that is one press, not two
            now = time.monotonic()
            if self.signals == 0 or (number == signal.SIGINT and now - self.pressed > PATIENCE_SECONDS):
                self.signals += 1
            self.pressed = now

        return {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}


def _reason(cell: Cell, code: int) -> str:
    """Why a process ended, from its exit code and the last line of its log."""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"killed by {name}" + (", perhaps out of memory" if name == "SIGKILL" else "")
    try:
        lines = (cell.folder / "log.txt").read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")
    return last.removeprefix("error: ")[:500]
