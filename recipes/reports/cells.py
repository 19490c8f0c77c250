"""An ablation and its cells: the numbers their files hold, and one table of them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from recipes.ablation.comparisons import Pairs
from recipes.ablation.published import Published
from recipes.configuration import leaves

ENDED = ("finished", "diverged", "failed")
NUMBERS = (
    "val_loss", "params", "flops_per_token", "step_ms", "tokens_per_s", "peak_memory_mb",
    "gain_forward", "gain_backward", "gain_forward_max", "gain_backward_max",
    "tokens", "tokens_per_step", "seconds", "step_ms_p10", "step_ms_p90", "val_accuracy", "val_order_accuracy",
)  # fmt: skip
# what the data say of how a page is read
DATA = ("visual_tokens", "answer_tokens_per_visual_token")
GAIN = "signal_gain/composite/"
# what a configuration says of one cell alone
OWN = ("seed_everything", "trainer.default_root_dir", "trainer.logger", "trainer.callbacks", "ablation")


def number(value: Any) -> float:
    """A float from what a file holds; NaN where it holds none."""
    try:
        return math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan


@dataclass
class Cell:
    """One variant at one seed: its files, as far as they could be read."""

    folder: Path
    variant: str
    seed: int
    axes: dict[str, str]
    status: str
    record: dict[str, Any]
    config: dict[str, Any]
    environment: dict[str, Any]
    shared: bool
    matched: dict[str, Any]
    question: str
    metrics: dict[str, pd.Series] = field(repr=False)

    @property
    def name(self) -> str:
        """The cell's place within its ablation."""
        return f"{self.variant}/seed-{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """Its configuration by dotted path, without what is its own alone."""
        return {path: value for path, value in leaves(self.config) if not path.startswith(OWN)}

    def series(self, metric: str) -> pd.Series:
        """Values of a metric by finished optimizer steps; empty where it was not measured."""
        return self.metrics.get(metric, pd.Series(dtype=float))

    @property
    def steps(self) -> float:
        """Finished optimizer steps."""
        return next((n for key in ("step", "steps") if not math.isnan(n := number(self.record.get(key)))), math.nan)

    def value(self, name: str) -> float:
        """A final number of the cell, from its record or else from its metrics; NaN where it was not measured."""
        recorded = number(self.record.get(name))
        if not math.isnan(recorded) or self.status == "failed":
            return recorded
        if name in (*DATA, "blind_order_accuracy", "order_tokens"):
            return number((self.environment.get("data") or {}).get(name))
        source = {name: name.replace("_", "/", 1) for name in ("val_loss", "val_accuracy", "val_order_accuracy")}
        source |= {"gain_forward": GAIN + "forward", "gain_backward": GAIN + "backward"}
        series = self.series(source.get(name.removesuffix("_max"), "")).dropna()
        if series.empty:
            return self._tokens_per_step() if name == "tokens_per_step" else math.nan
        return float(series.max() if name.endswith("_max") else series.iloc[-1])

    def _tokens_per_step(self) -> float:
        steps = self.steps
        return number(self.record.get("tokens")) / steps if steps else math.nan

    def budget(self, at: str, step: float) -> float:
        """What `step` optimizer steps cost: steps, training FLOPs, or seconds of training at the median step time."""
        if at == "flops":
            return step * self.value("tokens_per_step") * self.value("flops_per_token")
        return step * self.value("step_ms") / 1000 if at == "time" else step

    def validation(self) -> pd.Series:
        """Validation loss by step, closed by the final one."""
        curve, final = self.series("val/loss").dropna(), self.value("val_loss")
        if math.isfinite(final) and math.isfinite(self.steps) and not (len(curve) and curve.index[-1] >= self.steps):
            curve = pd.concat([curve, pd.Series([final], index=[self.steps])])
        return curve

    def prior(self) -> float:
        """Loss of a model that knows nothing (nats): recorded, or the smaller of ln(vocabulary) and the first loss."""
        recorded = number(self.record.get("prior_loss"))
        if math.isnan(recorded) and not (series := self.series("prior_loss").dropna()).empty:
            recorded = float(series.iloc[-1])
        if not math.isnan(recorded):
            return recorded
        vocabulary = number(_find(self.config.get("model"), "vocabulary_size"))
        known = [math.log(vocabulary)] if vocabulary > 1 else []
        for metric, last in (("val/loss", 0), ("train/loss", 1)):  # only losses from before training count
            early = self.series(metric).dropna()
            known += [float(early.iloc[0])] if len(early) and early.index[0] <= last else []
        return min(known, default=math.nan)

    def trained(self) -> bool | None:
        """Whether the final validation loss is more than 1 % below the prior's; None where that is not known."""
        loss, prior = self.value("val_loss"), self.prior()
        return None if math.isnan(loss) or math.isnan(prior) else loss < 0.99 * prior


@dataclass
class Ablation:
    """An ablation's question and its cells, in the order of its axes; settings are {axis: {level: what it sets}}."""

    folder: Path
    question: str
    command: str
    axes: dict[str, list[str]]
    baseline: str
    cells: list[Cell]
    missing: list[str]
    problems: list[str]
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    published: Published | None = None
    comparisons: Pairs = ()

    @property
    def name(self) -> str:
        """The ablation's name: its folder's."""
        return self.folder.resolve().name

    @property
    def variants(self) -> list[str]:
        """The variants that have a cell, in the order of the axes."""
        return list(dict.fromkeys(cell.variant for cell in self.cells))

    def of(self, variant: str, *statuses: str) -> list[Cell]:
        """The cells of a variant, those of the given statuses alone where any are given."""
        return [cell for cell in self.cells if cell.variant == variant and (not statuses or cell.status in statuses)]

    def planned(self, variant: str) -> int:
        """How many cells of the variant there are to be: those with a folder, and those not yet run."""
        return len(self.of(variant)) + sum(name.rpartition("/")[0] == variant for name in self.missing)

    def levels(self, variant: str) -> dict[str, str]:
        """The variant's place on each axis."""
        return next((cell.axes for cell in self.cells if cell.variant == variant and cell.axes), {})

    def summary(self) -> pd.DataFrame:
        """A row per ended cell."""
        rows = []
        for cell in self.cells:
            if cell.status not in ENDED:
                continue
            row = {"variant": cell.variant, "seed": cell.seed, "status": cell.status, "steps": cell.steps}
            row |= {name: cell.value(name) for name in (*NUMBERS, *DATA)} | {"shared": cell.shared}
            row |= {axis: cell.axes.get(axis) for axis in self.axes if len(self.axes) > 1 and axis not in row}
            row |= {"commit": cell.environment.get("commit"), "reason": one_line(cell.record.get("reason"))}
            rows.append(row | {"error": one_line(cell.record.get("error"))})
        table = pd.DataFrame(rows)
        for name in ("steps", "params", "tokens", "tokens_per_step"):
            if name in table and (table[name].dropna() % 1 == 0).all():
                table[name] = table[name].astype("Int64")
        return table


def one_line(text: Any) -> str | None:
    """The line of an error that says what happened (a traceback's last), without this machine's paths."""
    lines = [line.strip() for line in str(text or "").splitlines() if line.strip()]
    line = next(iter(lines[-1:] if lines and lines[0].startswith("Traceback") else lines), None)
    return line and line.replace(f"{Path.cwd()}/", "").replace(str(Path.home()), "~")


def _find(node: Any, key: str) -> Any:
    """The first value of `key` anywhere in a configuration."""
    if isinstance(node, dict) and key in node:
        return node[key]
    children: Iterable[Any] = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return next((found for child in children if (found := _find(child, key)) is not None), None)
