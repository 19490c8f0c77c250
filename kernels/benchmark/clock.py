"""Microseconds of an operation on a device whose caches are cold, and the device's own bandwidth in the same run."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

# more than any L2 holds; written before every run, so that lines of the run before are neither there nor clean
FLUSHED = 256 * 2**20
COPIED = {"cuda": 2**30, "cpu": 2**24}
# clock ticks a second that the spin counts with; a slower clock spins longer, which does no harm
TICKS = 2e9


class Timing(NamedTuple):
    """Microseconds: median, first and last decile, and of how many runs."""

    us: float
    p10: float
    p90: float
    runs: int


class Clock:
    """Times functions on one device.

    On a GPU events stand around the run, the L2 is flushed before it, and a spin keeps the GPU busy until the host has
    queued everything, so that what is measured is the GPU's time and not the host's.

    Args:
        device: "cuda" or "cpu".
        runs: the most there are; fewer, but five if there may be, once `seconds` have passed.
        seconds: of one measurement.
    """

    def __init__(self, device: str, *, runs: int = 30, seconds: float = 0.4) -> None:
        self.device, self.runs, self.seconds = device, runs, seconds
        self._flush = torch.empty(FLUSHED if device == "cuda" else 0, dtype=torch.int8, device=device)

    def time(self, run: Callable[[Any], Any], prepare: Callable[[], Any] = lambda: None) -> Timing:
        """Time run(prepare()), of which only `run` counts; twice first without a clock."""
        for _ in range(2):  # compiles, and fills the allocator
            given, start = self._prepared(prepare), time.perf_counter()
            result = run(given)
            queued = time.perf_counter() - start
            del given, result
        self._wait()
        return self._cuda(run, prepare, queued) if self.device == "cuda" else self._cpu(run, prepare)

    def _cuda(self, run: Callable[[Any], Any], prepare: Callable[[], Any], queued: float) -> Timing:
        spin = int(min(1.5 * queued + 2e-4, 0.02) * TICKS)
        begun = time.perf_counter()
        events: list[float] = []
        while len(events) < self.runs and (len(events) < 5 or time.perf_counter() - begun < self.seconds):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            given = self._prepared(prepare)
            self._flush.zero_()
            torch.cuda._sleep(spin)
            start.record()
            result = run(given)
            end.record()
            end.synchronize()
            events.append(1e3 * start.elapsed_time(end))
            del given, result
        return _timing(events)

    def _cpu(self, run: Callable[[Any], Any], prepare: Callable[[], Any]) -> Timing:
        begun = time.perf_counter()
        times: list[float] = []
        while len(times) < self.runs and (len(times) < 5 or time.perf_counter() - begun < self.seconds):
            given, start = self._prepared(prepare), time.perf_counter()
            result = run(given)
            times.append(1e6 * (time.perf_counter() - start))
            del given, result
        return _timing(times)

    def _prepared(self, prepare: Callable[[], Any]) -> Any:
        given = prepare()
        self._wait()
        return given

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def copy_bandwidth(self) -> float:
        """Bytes a second that a copy of a large tensor reads and writes."""
        source = torch.ones(COPIED[self.device], dtype=torch.int8, device=self.device)
        target = torch.empty_like(source)
        return 2 * source.numel() / (1e-6 * self.time(lambda _: target.copy_(source)).us)

    def matmul_rate(self) -> float:
        """Floating point operations a second of torch's product of two square bf16 matrices."""
        size = 8192 if self.device == "cuda" else 128
        a: Tensor = torch.ones(size, size, dtype=torch.bfloat16, device=self.device)
        return 2 * size**3 / (1e-6 * self.time(lambda _: a @ a).us)


def _timing(microseconds: list[float]) -> Timing:
    cuts = statistics.quantiles(microseconds, n=10, method="inclusive")
    return Timing(statistics.median(microseconds), cuts[0], cuts[-1], len(microseconds))
