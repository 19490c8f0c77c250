"""Codes that take turns, so that a busy machine slows all of them, and their ratios within a round."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from kernels.benchmark.clock import Clock
from kernels.benchmark.record import place

Run = Callable[[], Any]
PLACE = ("device", "gpu", "driver", "cuda", "cpu", "threads", "torch", "triton", "commit", "dirty", "date")


class CannotMeasure(RuntimeError):
    """A part of the benchmark that cannot run here; the message is one sentence."""


@dataclass(frozen=True)
class Settings:
    """What every part of the benchmark is told.

    Attributes:
        device: "cuda" or "cpu".
        rounds: the most of a comparison.
        seconds: of a comparison, after which its rounds end.
        config: YAML of the full model.
        pages: of the full model's step.
        sequence: tokens of each of them.
    """

    device: str
    rounds: int = 30
    seconds: float = 60.0
    config: Path = Path("ablations/ocr2_full.yaml")
    pages: int = 4
    sequence: int = 2048


class Spread(NamedTuple):
    """Median, first and last decile."""

    median: float
    p10: float
    p90: float

    def columns(self, name: str) -> dict[str, float]:
        """As columns `name`, `name_p10` and `name_p90`."""
        return {name: self.median, f"{name}_p10": self.p10, f"{name}_p90": self.p90}

    @classmethod
    def read(cls, row: Mapping[str, Any], name: str) -> "Spread":
        """From the columns that `columns` makes."""
        return cls(row[name], row[f"{name}_p10"], row[f"{name}_p90"])

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.p10:.2f} to {self.p90:.2f})"


def spread(values: Sequence[float]) -> Spread:
    """Of at least two values."""
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return Spread(statistics.median(values), cuts[0], cuts[-1])


def ratio(times: Mapping[str, Sequence[float]], of: str, over: str) -> Spread:
    """The time of one code over another's in the same round."""
    return spread([mine / other for mine, other in zip(times[of], times[over], strict=True)])


def alternate(runs: Mapping[str, Run], settings: Settings) -> dict[str, list[float]]:
    """Milliseconds of every run in every round, in turn, every other round backwards; at least three rounds.

    On a GPU the time of a round is the median of five, by events, the caches flushed before each.
    """
    watch = _gpu_watch() if settings.device == "cuda" else _wall
    for run in runs.values():  # fills caches and allocators
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    begun, names = time.perf_counter(), list(runs)
    for number in range(max(settings.rounds, 3)):
        if number >= 3 and time.perf_counter() - begun > settings.seconds:
            break
        for name in reversed(names) if number % 2 else names:
            times[name].append(watch(runs[name]))
    return times


def machine(device: str) -> dict[str, Any]:
    """Device, processor, versions and commit, as the columns `PLACE`."""
    found = place(device) | {"cpu": _processor(), "threads": torch.get_num_threads()}
    return {name: found[name] for name in PLACE}


def _gpu_watch() -> Callable[[Run], float]:
    clock = Clock("cuda", runs=5, seconds=60)
    return lambda run: clock.time(lambda _: run()).us / 1e3


def _wall(run: Run) -> float:
    begun = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - begun)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
