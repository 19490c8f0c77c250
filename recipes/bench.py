"""Time the training step of the language model under each residual topology, in one run on this machine.

`make bench`, or `python -m recipes.bench [--steps 30] [--output results/bench]`. Variants alternate step by step, and a
ratio is the median over rounds of one variant's time over the plain residual's in the same round, so that a busy
machine slows both. Peers are timed beside them: a plain step in nanoGPT's manner and the package hyper-connections.
"""

import argparse
import datetime
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from kernels.sinkhorn import native
from mhc import Attention, CausalLanguageModel, FeedForward, HyperConnection, ManifoldHyperConnection, parameter_groups
from mhc.topology import Residual, TopologyFactory
from recipes.environment import environment
from recipes.files import replace_file

BATCH, SEQUENCE, VOCABULARY, HEADS = 8, 256, 256, 4
SHAPES = ((256, 6), (64, 12))  # width, blocks


class PlainBlock(nn.Module):
    """A pre-norm block in the manner of nanoGPT: LayerNorm, fused attention without rotation, GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attend(self, x: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C]."""
        heads = self.query_key_value(self.first(x)).view(*x.shape[:2], 3, HEADS, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(y.transpose(1, 2).reshape(x.shape))

    def feed_forward(self, x: Tensor) -> Tensor:
        """[B, S, C] -> [B, S, C]."""
        return self.down(F.gelu(self.up(self.second(x))))


class Peer(nn.Module):
    """A language model of plain blocks, each branch wrapped by `wrap(branch, width, index)`."""

    def __init__(
        self, width: int, blocks: int, wrap: Callable[..., Callable[[Tensor], Tensor]], streams: int = 1
    ) -> None:
        super().__init__()
        self.streams = streams
        self.embedding, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(SEQUENCE, width)
        self.blocks = nn.ModuleList(PlainBlock(width) for _ in range(blocks))
        branches = (branch for block in self.blocks for branch in (block.attend, block.feed_forward))
        self.steps = [wrap(branch, width, index) for index, branch in enumerate(branches)]
        self.mixers = nn.ModuleList(step for step in self.steps if isinstance(step, nn.Module))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token numbers [B, S] -> logits [B, S, V]."""
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        x = x.repeat_interleave(self.streams, 0) if self.streams > 1 else x
        for step in self.steps:
            x = step(x)
        x = x.unflatten(0, (-1, self.streams)).sum(1) if self.streams > 1 else x
        return self.head(self.norm(x))


def variants(width: int, blocks: int) -> dict[str, tuple[str, nn.Module]]:
    """What is timed: name -> (path that runs, model); peers that are not installed are left out."""

    def ours(topology: TopologyFactory) -> nn.Module:
        feed_forward = partial(FeedForward, hidden=4 * width)
        attention = partial(Attention, heads=HEADS)
        return CausalLanguageModel(
            VOCABULARY, width, blocks, topology=topology, attention=attention, feed_forward=feed_forward
        )

    fastest = "native" if native.can_run(torch.zeros(4, 4)) else "reference"
    found = {
        "residual": ("eager", ours(Residual)),
        "mhc": (fastest, ours(ManifoldHyperConnection)),
        "mhc, reference": ("reference", ours(partial(ManifoldHyperConnection, impl="reference"))),
        "hc": ("eager", ours(HyperConnection)),
        "peer: nanoGPT-style residual": ("eager", Peer(width, blocks, lambda branch, *_: lambda x: x + branch(x))),
    }
    try:
        from hyper_connections.manifold_constrained_hyper_connections import ManifoldConstrainedHyperConnections
    except ImportError:
        return found

    def wrap(branch: Callable[[Tensor], Tensor], width: int, index: int) -> nn.Module:
        return ManifoldConstrainedHyperConnections(4, dim=width, branch=branch, layer_index=index)

    found["peer: hyper-connections mHC"] = ("eager", Peer(width, blocks, wrap, streams=4))
    return found


def time_steps(models: dict[str, nn.Module], steps: int, warm_up: int, label: str) -> dict[str, list[float]]:
    """Milliseconds of each of `steps` training steps per model, the models taking turns."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCABULARY, (BATCH, SEQUENCE + 1), generator=generator)
    optimizers = {
        name: torch.optim.AdamW(parameter_groups(model), lr=1e-3, fused=True) for name, model in models.items()
    }
    times: dict[str, list[float]] = {name: [] for name in models}
    for round_number in track(range(warm_up + steps), description=label):
        for name, model in models.items():
            start = time.perf_counter()
            F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            if round_number >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def rows(steps: int, warm_up: int) -> pd.DataFrame:
    """One row per shape and variant."""
    place, found = environment(), []
    for width, blocks in SHAPES:
        torch.manual_seed(0)
        chosen = variants(width, blocks)
        times = time_steps(
            {name: model for name, (_, model) in chosen.items()}, steps, warm_up, f"C = {width}, {blocks} blocks"
        )
        for name, milliseconds in times.items():
            ratios = [mine / plain for mine, plain in zip(milliseconds, times["residual"], strict=True)]
            tenths, ratio_tenths = deciles(milliseconds), deciles(ratios)
            median = statistics.median(milliseconds)
            found.append(
                {
                    "variant": name, "path": chosen[name][0], "width": width, "blocks": blocks, "heads": HEADS,
                    "batch": BATCH, "sequence": SEQUENCE, "vocabulary": VOCABULARY, "steps": steps,
                    "step_ms": round(median, 2),
                    "step_ms_p10": round(tenths[0], 2), "step_ms_p90": round(tenths[1], 2),
                    "tokens_per_s": round(BATCH * SEQUENCE / median * 1e3),
                    "ratio": round(statistics.median(ratios), 3), "ratio_p10": round(ratio_tenths[0], 3),
                    "ratio_p90": round(ratio_tenths[1], 3), "threads": torch.get_num_threads(),
                    "cpu": place["hardware"]["cpu"], "torch": torch.__version__, "commit": place["commit"],
                    "dirty": place["dirty"], "date": datetime.date.today().isoformat(),
                }
            )  # fmt: skip
    return pd.DataFrame(found)


def deciles(values: list[float]) -> tuple[float, float]:
    """The first and the last decile."""
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return cuts[0], cuts[-1]


def main() -> None:
    """Time, print the table and write training_step.csv."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each variant (default 30)")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before the timing begins (default 5)")
    parser.add_argument("--output", type=Path, default=Path("results/bench"), help="folder (default results/bench)")
    arguments = parser.parse_args()
    if arguments.steps < 2 or arguments.warm_up < 0:
        parser.error("--steps must be at least 2 and --warm-up not negative")
    frame = rows(arguments.steps, arguments.warm_up)
    table = Table(title=f"training step: batch {BATCH}, sequence {SEQUENCE}; median (p10 to p90) of {arguments.steps}")
    for column in ("C", "blocks", "variant", "path", "ms", "tokens/s", "over residual"):
        table.add_column(column, justify="left" if column in ("variant", "path") else "right", no_wrap=True)
    for row in frame.itertuples():
        table.add_row(
            f"{row.width}", f"{row.blocks}", row.variant, row.path,
            f"{row.step_ms:.0f} ({row.step_ms_p10:.0f} to {row.step_ms_p90:.0f})", f"{row.tokens_per_s:,}",
            f"{row.ratio:.2f} ({row.ratio_p10:.2f} to {row.ratio_p90:.2f})",
        )  # fmt: skip
    Console(width=max(Console().width, 110)).print(table)
    replace_file(arguments.output / "training_step.csv", frame.to_csv(index=False))
    print(f"written: {arguments.output / 'training_step.csv'}")


if __name__ == "__main__":
    main()
