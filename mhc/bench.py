"""Time the training step of a trunk on a GPU, residual against mHC: `python -m mhc.bench`.

Layers have the shapes of the paper's 3B, 9B and 27B models, the feed-forward dense and of the active width; there are
as many of them as fit. Rows are written to results/kernels/end_to_end.csv as soon as their shape is measured.
`--device cpu` runs the same path on a tiny shape, to try the path and not the speed.
"""

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kernels.benchmark.clock import Clock
from kernels.benchmark.record import Record, folder, place, reason
from mhc.attention import Attention
from mhc.feed_forward import SwiGLU
from mhc.manifold_hyper_connection import ManifoldHyperConnection
from mhc.parameter_groups import parameter_groups
from mhc.recompute import Recompute, best_interval
from mhc.topology import Residual, ResidualTopology, TopologyFactory
from mhc.trunk import Trunk

STREAMS = 4
OVERHEAD = 6.5  # percent, the goal at the 27B layer shape
MEMORY = 10.0  # percent, the goal of a recomputed trunk against the formula
COLUMNS = (
    "shape", "variant", "layers", "width", "hidden", "heads", "batch", "sequence", "compiled", "step_ms", "step_ms_p10",
    "step_ms_p90", "runs", "overhead_percent", "peak_mb", "above_residual_mb", "formula_mb", "over_formula_percent",
    "flop_utilisation_percent", "reason", "matmul_tflop_per_s", "device", "gpu", "driver", "cuda", "torch", "triton",
    "liger", "commit", "dirty", "date",
)  # fmt: skip


class Shape(NamedTuple):
    """A model's layers: how many, their width, attention heads and hidden width of the feed-forward."""

    layers: int
    width: int
    heads: int
    hidden: int


# six routed and two shared experts are active: eight times an expert's hidden width
SHAPES = {
    "3B": Shape(12, 1280, 16, 8 * 896),
    "9B": Shape(18, 1920, 24, 8 * 1280),
    "27B": Shape(30, 2560, 32, 8 * 1536),
}
TINY = {"tiny": Shape(2, 16, 2, 32)}


class Apart(ManifoldHyperConnection):
    """mHC that combines, and then aggregates."""

    def combine_aggregate(
        self, state: Tensor, y: Tensor, carry: Any, following: ResidualTopology
    ) -> tuple[Tensor, Tensor, Any]:
        """Two operations where `ManifoldHyperConnection` has one."""
        return ResidualTopology.combine_aggregate(self, state, y, carry, following)


VARIANTS: dict[str, tuple[TopologyFactory, Recompute]] = {
    "residual": (Residual, None),
    "mhc": (ManifoldHyperConnection, None),
    "mhc, apart": (Apart, None),
    "mhc, recompute": (ManifoldHyperConnection, "auto"),
    "mhc, apart, recompute": (Apart, "auto"),
}


def build(
    shape: Shape, topology: TopologyFactory, recompute: Recompute, device: str, dtype: torch.dtype, compiled: bool
) -> Trunk:
    """A trunk of a shape; mixing parameters stay fp32."""
    attention, feed_forward = partial(Attention, heads=shape.heads), partial(SwiGLU, hidden=shape.hidden)
    with torch.device(device):
        sublayers: list[nn.Module] = [
            make(shape.width) for _ in range(shape.layers) for make in (attention, feed_forward)
        ]
        topologies = [topology(shape.width, index) for index in range(len(sublayers))]
    trunk = Trunk(sublayers, topologies, recompute=recompute).to(dtype)
    if compiled:
        for sublayer in trunk.sublayers:
            sublayer.compile()
    return trunk


def recompute_formula(shape: Shape, tokens: int, element: int) -> int:
    """Bytes of a recomputed trunk above the plain one: n C ceil(L / L_r) + (n + 2) C L_r + C L a token."""
    sublayers = 2 * shape.layers
    every = best_interval(sublayers, STREAMS)
    values = STREAMS * -(-sublayers // every) + (STREAMS + 2) * every + sublayers
    return values * shape.width * tokens * element


def step_flops(shape: Shape, batch: int, sequence: int) -> float:
    """Floating point operations of a training step's branches, which are the same in every variant."""
    weights = 4 * shape.width**2 + 3 * shape.width * shape.hidden
    attention = 2 * shape.width * sequence  # scores and values, causal: half of 4
    return 3.0 * batch * sequence * shape.layers * (2 * weights + attention)


def measure_variant(clock: Clock, trunk: Trunk, batch: int, sequence: int, width: int) -> dict[str, Any]:
    """Milliseconds of a step (forward, backward, AdamW) and the peak of memory."""
    parameter = next(trunk.sublayers.parameters())
    optimizer = torch.optim.AdamW(parameter_groups(trunk), lr=1e-5, fused=True)
    x = torch.randn(batch, sequence, width, device=parameter.device, dtype=parameter.dtype, requires_grad=True)
    upstream = torch.randn_like(x)

    def step(_: Any) -> None:
        trunk(x).backward(upstream)
        optimizer.step()
        optimizer.zero_grad()
        x.grad = None

    cuda = clock.device == "cuda"
    step(None)  # the optimizer's state exists from here on
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    timing = clock.time(step)
    row = {"step_ms": timing.us / 1e3, "step_ms_p10": timing.p10 / 1e3, "step_ms_p90": timing.p90 / 1e3}
    return row | {"runs": timing.runs, "peak_mb": torch.cuda.max_memory_allocated() / 2**20 if cuda else 0.0}


def rows_of(
    clock: Clock, name: str, shape: Shape, batch: int, sequence: int, compiled: bool
) -> Iterator[dict[str, Any]]:
    """A row per variant, the residual first.

    Raises:
        torch.OutOfMemoryError: a variant other than one that recomputes does not fit; take fewer layers.
    """
    dtype = torch.bfloat16 if clock.device == "cuda" else torch.float32
    plain: dict[str, Any] = {}
    for variant, (topology, recompute) in VARIANTS.items():
        row: dict[str, Any] = {"shape": name, "variant": variant, "batch": batch, "sequence": sequence}
        row |= shape._asdict() | {"compiled": compiled and recompute is None}
        try:
            trunk = build(shape, topology, recompute, clock.device, dtype, bool(row["compiled"]))
            row |= measure_variant(clock, trunk, batch, sequence, shape.width)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            yield row | {"reason": reason(error)}
            continue
        finally:
            trunk = None  # type: ignore[assignment]
            gc.collect()
            if clock.device == "cuda":
                torch.cuda.empty_cache()
        plain = plain or row
        if plain["variant"] == "residual":
            row["overhead_percent"] = 100 * (row["step_ms"] / plain["step_ms"] - 1)
            row["above_residual_mb"] = row["peak_mb"] - plain["peak_mb"]
        if recompute is not None:
            row["formula_mb"] = recompute_formula(shape, batch * sequence, dtype.itemsize) / 2**20
            if clock.device == "cuda":
                row["over_formula_percent"] = 100 * (row["above_residual_mb"] / row["formula_mb"] - 1)
        row["flops"] = step_flops(shape, batch, sequence)
        yield row


def as_many_as_fit(
    clock: Clock, name: str, shape: Shape, batch: int, sequence: int, compiled: bool
) -> list[dict[str, Any]]:
    """The rows of a shape with its own number of layers, or two thirds of it, again and again."""
    while True:
        try:
            return list(rows_of(clock, name, shape, batch, sequence, compiled))
        except torch.OutOfMemoryError:
            if shape.layers == 1:
                return [{"shape": name, "variant": "all", "reason": "one layer does not fit"}]
        shape = shape._replace(layers=max(1, 2 * shape.layers // 3))
        gc.collect()
        torch.cuda.empty_cache()


def goals(rows: list[dict[str, Any]]) -> str:
    """The goals, each with its number; a CPU decides none."""
    if not rows or rows[0]["device"] != "cuda":
        return "goals: not measured, they are a GPU's"
    lines = []
    overheads = [
        row["overhead_percent"]
        for row in rows
        if row["shape"] == "27B" and row["variant"] == "mhc" and "overhead_percent" in row
    ]
    memory = [abs(row["over_formula_percent"]) for row in rows if "over_formula_percent" in row]
    for goal, numbers, limit in (
        (f"mHC at the 27B layer shape costs at most {OVERHEAD} % of a step", overheads, OVERHEAD),
        (f"memory of a recomputed trunk within {MEMORY:.0f} % of the formula", memory, MEMORY),
    ):
        if numbers:
            state = "reached" if max(numbers) <= limit else "not reached"
            lines.append(f"  {state:12}  {goal}: {max(numbers):.1f} %")
        else:
            lines.append(f"  not measured  {goal}")
    return "\n".join(["goals:", *lines])


def main(given: list[str] | None = None) -> int:
    """Measure, write, report; 2 where there is nothing to measure on."""
    parser = argparse.ArgumentParser(prog="python -m mhc.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), metavar="NAME", help="3B 9B 27B")
    parser.add_argument("--batch", type=int, default=4, help="sequences (4)")
    parser.add_argument("--sequence", type=int, default=4096, help="tokens of each (4096)")
    parser.add_argument("--compile", action="store_true", help="torch.compile each sublayer, but under recompute")
    parser.add_argument("--output", type=Path, help="folder (results/kernels; on a CPU a temporary one)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a tiny shape, to try the path")
    options = parser.parse_args(given)
    cuda = options.device == "cuda"
    if cuda and not torch.cuda.is_available():
        print("mhc.bench: no NVIDIA GPU here; --device cpu tries the path without one", file=sys.stderr)
        return 2
    clock = Clock(options.device, runs=10 if cuda else 2, seconds=20)
    shared = place(options.device) | {"matmul_tflop_per_s": clock.matmul_rate() / 1e12}
    record, begun = Record(folder(options.output, options.device) / "end_to_end.csv", COLUMNS), time.perf_counter()
    batch, sequence = (options.batch, options.sequence) if cuda else (1, 8)
    for name, shape in {key: SHAPES[key] for key in options.shapes}.items() if cuda else TINY.items():
        for row in as_many_as_fit(clock, name, shape, batch, sequence, options.compile):
            if (flops := row.pop("flops", None)) is not None:
                rate = flops / row["step_ms"] / 1e9
                row["flop_utilisation_percent"] = 100 * rate / shared["matmul_tflop_per_s"]
            record.add(shared | row)
            cost = f", {row['overhead_percent']:+.1f} %" if "overhead_percent" in row else ""
            cost += f", {row['peak_mb']:.0f} MB" if cuda and "peak_mb" in row else ""
            found = f"{row['step_ms']:.1f} ms{cost}" if "step_ms" in row else row["reason"]
            seconds = time.perf_counter() - begun
            layers = row.get("layers", "")
            print(f"[{seconds:.0f} s] {name}, {layers} layers, {row['variant']}: {found}", flush=True)
    print(goals(record.rows))
    print(f"written: {record.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
