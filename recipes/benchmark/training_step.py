"""The training step of the language model under each residual topology, beside its peers.

Variants alternate step by step, and a ratio is the median over rounds of one variant's time over the plain residual's
in the same round, so that a busy machine slows both. Peers are timed beside them: a plain step in nanoGPT's manner and
the package hyper-connections.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from encoders.benchmark.rounds import Spread, ratio, spread
from kernels.sinkhorn import native
from mhc import Attention, CausalLanguageModel, FeedForward, HyperConnection, ManifoldHyperConnection, parameter_groups
from mhc.topology import Residual, TopologyFactory
from recipes.benchmark.settings import Settings

FILE = "training_step.csv"
COLUMNS = (
    "variant", "path", "width", "blocks", "heads", "batch", "sequence", "vocabulary", "steps", "step_ms", "step_ms_p10",
    "step_ms_p90", "tokens_per_s", "ratio", "ratio_p10", "ratio_p90", "threads", "cpu", "torch", "commit", "dirty",
    "date",
)  # fmt: skip
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


def rows(settings: Settings) -> Iterator[dict[str, Any]]:
    """A row for each shape and variant."""
    for width, blocks in SHAPES:
        torch.manual_seed(0)
        chosen = variants(width, blocks)
        models = {name: model for name, (_, model) in chosen.items()}
        times = time_steps(models, settings.steps, settings.warm_up, f"C = {width}, {blocks} blocks")
        for name, milliseconds in times.items():
            step, over = spread(milliseconds), ratio(times, name, "residual")
            yield {
                "variant": name, "path": chosen[name][0], "width": width, "blocks": blocks, "heads": HEADS,
                "batch": BATCH, "sequence": SEQUENCE, "vocabulary": VOCABULARY, "steps": settings.steps,
                **{column: round(value, 2) for column, value in step.columns("step_ms").items()},
                "tokens_per_s": round(BATCH * SEQUENCE / step.median * 1e3),
                **{column: round(value, 3) for column, value in over.columns("ratio").items()},
            }  # fmt: skip


def table(found: Sequence[Mapping[str, Any]]) -> Table:
    """The rows, for the terminal."""
    steps = found[0]["steps"]
    shown = Table(title=f"training step: batch {BATCH}, sequence {SEQUENCE}; median (p10 to p90) of {steps}")
    for column in ("C", "blocks", "variant", "path", "ms", "tokens/s", "over residual"):
        shown.add_column(column, justify="left" if column in ("variant", "path") else "right", no_wrap=True)
    for row in found:
        step = Spread.read(row, "step_ms")
        shown.add_row(
            f"{row['width']}", f"{row['blocks']}", row["variant"], row["path"],
            f"{step.median:.0f} ({step.p10:.0f} to {step.p90:.0f})", f"{row['tokens_per_s']:,}",
            f"{Spread.read(row, 'ratio')}",
        )  # fmt: skip
    return shown


def goals(found: Sequence[Mapping[str, Any]]) -> str:
    """What mHC's step costs over the plain residual's; no number was set."""
    costs = [f"{Spread.read(row, 'ratio')} at C = {row['width']}" for row in found if row["variant"] == "mhc"]
    return f"  {'no goal':12}  mHC's training step over the plain residual's: {', '.join(costs)}"
