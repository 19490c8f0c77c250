"""Rows of the benchmark: one for an operation, form, direction and size, with the times of its peers."""

import gc
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.benchmark.cases import PEERS, Case, Function, build, outputs_of, sizes
from kernels.benchmark.clock import Clock, Timing
from kernels.benchmark.formulas import BYTES, Size, flops
from kernels.benchmark.record import Record, place, reason
from kernels.dispatch import Implementation

COLUMNS = (
    "operation", "form", "direction", "tokens", "n", "width", "dtype", "steps", "impl", "us", "us_p10", "us_p90",
    "runs", "bytes", "gb_per_s", "percent_of_copy", "flops", "tflop_per_s",
    *(f"{peer}_us" for peer in PEERS), *(f"over_{peer}" for peer in PEERS), "reason", "copy_gb_per_s",
    "matmul_tflop_per_s", "device", "gpu", "driver", "cuda", "torch", "triton", "liger", "commit", "dirty", "date",
)  # fmt: skip
DIRECTIONS = ("forward", "backward")
TABLE = ("operation", "form", "direction", "tokens", "n", "width", "us", "gb_per_s", "percent_of_copy")


def measure(
    clock: Clock,
    impl: Implementation,
    record: Record,
    *,
    operations: Sequence[str],
    peers: Sequence[str],
    quick: bool,
    limit: float,
) -> list[dict[str, Any]]:
    """Measure and record every row; what fails is a row with its reason, and the run goes on.

    Args:
        clock: of the device.
        impl: code of the operations.
        record: takes the rows.
        operations: names.
        peers: names.
        quick: fewer sizes.
        limit: seconds after which peers are left out.
    """
    begun = time.perf_counter()
    shared = place(clock.device) | {"impl": impl}
    shared["copy_gb_per_s"] = clock.copy_bandwidth() / 1e9
    shared["matmul_tflop_per_s"] = clock.matmul_rate() / 1e12
    todo = [(name, size) for name in operations for size in sizes(name, clock.device, quick)]
    for number, (operation, size) in enumerate(todo, 1):
        asked = peers if time.perf_counter() - begun < limit else ()
        for row in _rows(clock, operation, size, impl, asked, shared, "" if asked == peers else "peers: out of time"):
            record.add(row)
            found = f"{row['us']:.1f} us" if "us" in row else row["reason"]
            label = " ".join(filter(None, (operation, row["form"], row["direction"])))
            seconds = time.perf_counter() - begun
            print(
                f"[{number}/{len(todo)}, {seconds:.0f} s] {label}, {size.tokens} x {size.n} x {size.width}: {found}",
                file=sys.stderr,
                flush=True,
            )
        _free(clock)
    return record.rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text in columns."""
    head = [*TABLE, *(f"over_{peer}" for peer in PEERS)]
    lines = [head] + [[_cell(row.get(name, "")) for name in head] for row in rows]
    lengths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(length) for cell, length in zip(line, lengths, strict=True)).rstrip() for line in lines
    )


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rows(
    clock: Clock,
    operation: str,
    size: Size,
    impl: Implementation,
    peers: Sequence[str],
    shared: dict[str, Any],
    note: str,
) -> Iterator[dict[str, Any]]:
    what = {"operation": operation, "tokens": size.tokens, "n": size.n, "width": size.width, "steps": size.steps}
    what |= {"dtype": "fp32" if operation == "sinkhorn" else "bf16"}
    if operation == "prefix_attention":
        what["impl"] = "auto"  # it has codes of its own
    try:
        case = build(operation, size, clock.device, impl)
    except Exception as error:
        yield from (shared | what | {"form": "", "direction": way, "reason": reason(error)} for way in DIRECTIONS)
        return
    theirs: dict[tuple[str, str], Timing | str] = {}
    for name in peers:
        if name in case.peers:
            try:
                function = case.peers[name]()
            except Exception as error:
                theirs |= {(name, way): reason(error) for way in DIRECTIONS}
                continue
            theirs |= {(name, way): _time(clock, function, case, way) for way in DIRECTIONS}
            _free(clock)
    for form, (function, formula) in case.forms.items():
        for way in DIRECTIONS:
            row = shared | what | {"form": form, "direction": way} | _work(case, formula, way == "backward")
            reasons = [note] if note else []
            mine = _time(clock, function, case, way)
            if isinstance(mine, str):
                yield row | {"reason": mine}
                continue
            row |= {"us": mine.us, "us_p10": mine.p10, "us_p90": mine.p90, "runs": mine.runs}
            row["gb_per_s"] = row["bytes"] / mine.us / 1e3
            row["percent_of_copy"] = 100 * row["gb_per_s"] / shared["copy_gb_per_s"]
            row["tflop_per_s"] = row["flops"] / mine.us / 1e6
            for name in PEERS:
                their = theirs.get((name, way))
                if isinstance(their, Timing):
                    row |= {f"{name}_us": their.us, f"over_{name}": their.us / mine.us}
                elif their:
                    reasons.append(f"{name}: {their}")
            yield row | {"reason": "; ".join(reasons)}
        _free(clock)


def _work(case: Case, formula: str, backward: bool) -> dict[str, int]:
    return {
        "bytes": BYTES[formula](case.size, backward),
        "flops": flops(case.operation, case.size, backward, case.keys),
    }


def _time(clock: Clock, function: Function, case: Case, direction: str) -> Timing | str:
    try:
        if direction == "forward":
            return clock.time(lambda _: outputs_of(function, case.arguments))
        return _time_backward(clock, function, case.arguments)
    except Exception as error:
        return reason(error)


def _time_backward(clock: Clock, function: Function, arguments: list[Tensor]) -> Timing:
    upstreams = [torch.randn_like(output) for output in outputs_of(function, arguments)]

    def backward(outputs: list[Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(outputs, arguments, upstreams)

    return clock.time(backward, lambda: outputs_of(function, arguments))


def _free(clock: Clock) -> None:
    gc.collect()
    if clock.device == "cuda":
        torch.cuda.empty_cache()
