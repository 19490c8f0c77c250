"""The share of data loading in training steps: the wait for a batch, against that wait and what is done with it."""

import contextlib
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.profilers import Profiler
from rich.table import Table

from encoders.benchmark.rounds import CannotMeasure, Spread, spread
from recipes.benchmark.progress import progress_bar
from recipes.benchmark.settings import PLACE, Settings
from recipes.cli import Resolved
from recipes.configuration import Tree, plain, read
from recipes.errors import UserError
from recipes.memory import keep_freed_memory

FILE = "data_loading.csv"
COLUMNS = (
    "configuration", "data", "workers", "batch", "steps", "steps_per_epoch", "wait_ms", "wait_ms_p10", "wait_ms_p90",
    "wait_ms_longest", "step_ms", "step_ms_p10", "step_ms_p90", "share_percent", "cached_pages", "cache_seconds",
    *PLACE,
)  # fmt: skip
CONFIGURATIONS = ("ocr2_tiny_stage1", "ocr2_tiny_stage2", "ocr2_tiny_stage3", "encoders")
# what Lightning calls the wait for a batch, and forward, backward and optimizer together
WAIT, STEP = "[_TrainingEpochLoop].train_dataloader_next", "run_training_batch"
GOAL = 5.0


def rows(settings: Settings) -> Iterator[dict[str, Any]]:
    """A row for each configuration.

    Raises:
        CannotMeasure: a configuration is missing, or cannot be built.
    """
    for name in CONFIGURATIONS:
        try:
            source = read(Path("ablations") / f"{name}.yaml")
            yield measure(name, source.tree, settings)
        except UserError as error:
            raise CannotMeasure(str(error)) from None


def measure(name: str, tree: Tree, settings: Settings) -> dict[str, Any]:
    """The row of a configuration: its first variant, trained as `recipes.fit` does, without callbacks and validation.

    It starts from random weights where the configuration names others, which takes the same time. Pages that are kept
    on disk are made before, in a folder of their own.

    Raises:
        UserError: a configuration that cannot be built.
    """
    tree = plain(tree)
    threads = (tree.pop("ablation", None) or {}).get("threads") or torch.get_num_threads()
    tree["model"]["init_args"].pop("start_from", None)
    steps = settings.warm_up + settings.loading_steps
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder, _threads(threads), _quiet(), progress_bar() as progress:
        task = progress.add_task(f"{name}: pages", total=None)
        resolved = _resolve(name, tree, folder)
        torch.manual_seed(resolved.seed)
        model, data = resolved.build("model"), resolved.build("data")
        begun = time.perf_counter()
        data.prepare_data()
        filled = time.perf_counter() - begun
        progress.update(task, description=f"{name}: steps", total=steps)
        watch = Watch(lambda: progress.advance(task))
        given = {
            **resolved.build("trainer"), "max_steps": steps, "default_root_dir": folder, "profiler": watch,
            "callbacks": None, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
            "limit_val_batches": 0,
        }  # fmt: skip
        trainer = Trainer(**given)
        trainer.fit(model, datamodule=data)
        known = data.summary()
    waits, work = watch.milliseconds[WAIT][settings.warm_up :], watch.milliseconds[STEP][settings.warm_up :]
    whole = [wait + rest for wait, rest in zip(waits, work, strict=True)]
    # pages that are drawn when they are asked for are kept nowhere
    kept = {"cached_pages": known["pages"], "cache_seconds": filled} if "pages_kept_in" in known else {}
    return {
        "configuration": name, "data": type(data).__name__, "workers": getattr(data, "workers", 0),
        "batch": data.batch_size, "steps": len(whole), "steps_per_epoch": int(trainer.num_training_batches),
        **spread(waits).columns("wait_ms"), "wait_ms_longest": max(waits), **spread(whole).columns("step_ms"),
        "share_percent": 100 * sum(waits) / sum(whole), "threads": threads,
    } | kept  # fmt: skip


def table(found: Sequence[Mapping[str, Any]]) -> Table:
    """The rows, for the terminal."""
    shown = Table(title="data loading in the training step; median (p10 to p90), share of the sums")
    for column in ("configuration", "workers", "steps", "wait ms", "longest", "step ms", "share"):
        shown.add_column(column, justify="left" if column == "configuration" else "right", no_wrap=True)
    for row in found:
        shown.add_row(
            row["configuration"], f"{row['workers']}", f"{row['steps']}", f"{Spread.read(row, 'wait_ms')}",
            f"{row['wait_ms_longest']:.1f}", f"{Spread.read(row, 'step_ms')}", f"{row['share_percent']:.2f} %",
        )  # fmt: skip
    return shown


def goals(found: Sequence[Mapping[str, Any]]) -> str:
    """Whether each share is below the goal."""
    return "\n".join(
        f"  {'reached' if row['share_percent'] < GOAL else 'not reached':12}  data loading below {GOAL:g} % of the "
        f"training step of {row['configuration']}: {row['share_percent']:.2f} %"
        for row in found
    )


class Watch(Profiler):
    """Notes how long each wait and each step of Lightning's loop took.

    Args:
        stepped: called after each step.

    Attributes:
        milliseconds: of each, in order, by what Lightning calls it.
    """

    def __init__(self, stepped: Callable[[], object]) -> None:
        super().__init__()
        self.stepped = stepped
        self.milliseconds: dict[str, list[float]] = {WAIT: [], STEP: []}
        self._begun: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        """Start the clock."""
        if action_name in self.milliseconds:
            self._begun[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Stop the clock."""
        if action_name in self.milliseconds:
            self.milliseconds[action_name].append(1e3 * (time.perf_counter() - self._begun[action_name]))
        if action_name == STEP:
            self.stepped()


def _resolve(name: str, tree: Tree, folder: str) -> Resolved:
    resolved = Resolved(tree, where=name)
    if "cache" not in resolved.tree["data"]["init_args"]:
        return resolved
    return Resolved(tree, [f"--data.init_args.cache={folder}"], where=name)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning|torchdata")
            yield
    finally:
        logger.setLevel(before)
