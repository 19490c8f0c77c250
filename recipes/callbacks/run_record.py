"""The files of a run: status, metrics and environment."""

import json
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.optim import Optimizer

from recipes.callbacks.divergence_guard import DivergedError
from recipes.callbacks.interruption import Interrupted, Interruption
from recipes.callbacks.measure import (
    data_processes,
    gradient_norm,
    log_metrics,
    validate,
    validation_is_due,
)
from recipes.callbacks.signal_gain import SignalGain
from recipes.checkpoint_io import AtomicCheckpointIO
from recipes.environment import environment
from recipes.files import replace_json
from recipes.loggers import MetricsFile
from recipes.memory import forget_peak_memory, peak_memory_mb
from recipes.rounding import lost_share, notice

# what a module's validation may give
VALIDATION = ("val/loss", "val/accuracy", "val/order_accuracy")


def checkpoint_defaults(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Arguments of Lightning's `ModelCheckpoint` that keep `checkpoints/last.ckpt` in a run folder and nothing else.

    As of lightning 2.6.6: without a trigger of its own it saves after validations, and `every_n_train_steps` saves
    after a step, before the step's validation, which `RunRecord` repeats where a kill took it. `save_last` would save
    once more when training ends, in a state from which no epoch goes on, if no step was saved; a file named "last"
    does not. With `enable_version_counter` a fresh run beside an old file writes `last-v1.ckpt`. Without `dirpath`
    the place depends on the first logger.
    """
    return {
        "dirpath": str(Path(folder) / "checkpoints"),
        "filename": "last",
        "save_top_k": 1,
        "every_n_train_steps": 100,
        "enable_version_counter": False,
    }


class RunRecord(Callback):
    """Keep a run's files in `trainer.default_root_dir`: status.json, environment.json, rows for every logger.

    It puts itself in front of the other callbacks, so that a step's time is the step's alone (no probe, validation
    or checkpoint), and an `Interruption` behind them; it makes checkpoints atomic. A run that is resumed loses the
    rows after its checkpoint. Only the first process writes.

    Args:
        every_n_steps: optimizer steps between the rows of train/*.
        status_every_seconds: least time between two status files of a running run.
    """

    def __init__(self, every_n_steps: int = 1, status_every_seconds: float = 0.5) -> None:
        if every_n_steps < 1:
            raise ValueError(f"run_record.every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps, self.status_every_seconds = every_n_steps, status_every_seconds
        self.resumed_at: list[int] = []
        self._content: dict[str, Any] = {}
        self._began = False
        self._written = self._batch_started = 0.0
        self._step, self._seconds, self._loss, self._tokens = 0, 0.0, 0.0, 0
        self._parts: list[Tensor] = []
        self._total_seconds, self._total_tokens = 0.0, 0
        self._step_ms: list[float] = []
        self._device, self._earlier_peak_mb = torch.device("cpu"), 0.0
        self._norm: Tensor | None = None
        self._rate = 0.0
        self._rates: dict[str, float] = {}
        self._validated = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the places among the callbacks, and make checkpoints atomic.

        Raises:
            ValueError: a strategy that writes checkpoints past their plugin.
        """
        if stage != "fit":
            return
        if getattr(trainer.strategy, "_save_distributed_checkpoint", False):
            raise ValueError(
                "trainer.strategy.save_distributed_checkpoint is true, which replaces the last checkpoint file by file "
                "and pickles what is in it: set it to false"
            )
        others = [callback for callback in trainer.callbacks if callback is not self]
        if not any(isinstance(callback, Interruption) for callback in others):
            others.append(Interruption())
        last = [callback for callback in others if isinstance(callback, Interruption)]
        checkpoints = [callback for callback in others if isinstance(callback, Checkpoint)]
        others = [callback for callback in others if callback not in (*last, *checkpoints)]
        trainer.callbacks = [self, *others, *checkpoints, *last]
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is known before the first step; drop rows that a resumed run will write again."""
        self._begin(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        self._batch_started = _now(pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Keep gradient norm (before clipping) and learning rate of the step."""
        self._norm, self._rate = gradient_norm(trainer, pl_module), optimizer.param_groups[0]["lr"]
        self._rates = {group["name"]: group["lr"] for group in optimizer.param_groups if "name" in group}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock; log the step if it is finished."""
        self._seconds += _now(pl_module) - self._batch_started
        self._parts.append(outputs["loss"].detach())
        self._tokens += batch[0].numel() * data_processes(trainer)
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        seconds, tokens, parts = self._seconds, self._tokens, self._parts
        self._seconds, self._tokens, self._parts = 0.0, 0, []
        self._total_seconds += seconds
        self._total_tokens += tokens
        self._step_ms.append(1000 * seconds)
        if self._step % self.every_n_steps and self._step != trainer.max_steps:
            return
        # Lightning divides each accumulated loss already
        loss = torch.stack(parts).sum()
        self._loss = float(trainer.strategy.reduce(loss, reduce_op="mean") if trainer.world_size > 1 else loss)
        metrics = {
            "train/loss": self._loss,
            "train/tokens_per_second": tokens / seconds,
            "train/step_ms": 1000 * seconds,
            "train/gradient_norm": float(self._norm if self._norm is not None else 0.0),
            "train/learning_rate": float(self._rate),
        }
        metrics |= {f"train/learning_rate/{name}": float(rate) for name, rate in self._rates.items()}
        log_metrics(trainer, metrics, self._step)
        self._content |= {"loss": self._loss, "tokens_per_s": tokens / seconds, "tokens_per_step": tokens}
        if time.monotonic() - self._written >= self.status_every_seconds:
            self._write(trainer, "running")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what validation gave, the loss among it."""
        if trainer.sanity_checking or "val/loss" not in trainer.callback_metrics:
            return
        given = trainer.callback_metrics
        found = {name: float(given[name]) for name in VALIDATION if name in given}
        self._validated = trainer.global_step
        self._content |= _as_fields(found)
        log_metrics(trainer, found, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the last step, if it was not."""
        self._validate_once(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the final status; a resumed run may have had nothing left to train."""
        if not self._began:
            self._begin(trainer, pl_module)
            self._validate_once(trainer)
        self._finish(trainer, pl_module, "finished")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write how the run ended; before its first step, only to a folder that is a cell's."""
        root = Path(trainer.default_root_dir)
        if not self._began and not (root / "cell.json").exists():
            return
        reason = (str(exception).strip().splitlines() or [""])[0]
        if isinstance(exception, DivergedError):
            self._finish(trainer, pl_module, "diverged", reason=reason)
        elif isinstance(exception, (Interrupted, KeyboardInterrupt, SIGTERMException)):
            self._finish(trainer, pl_module, "interrupted", reason=reason or type(exception).__name__)
        else:
            self._finish(trainer, pl_module, "failed", error=f"{type(exception).__name__}: {reason}".rstrip(": "))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run adds to."""
        return {
            "seconds": self._total_seconds,
            "tokens": self._total_tokens,
            "resumed_at": list(self.resumed_at),
            "validation": {key: value for key, value in self._content.items() if key.startswith("val_")},
            "step_ms": torch.tensor(self._step_ms, dtype=torch.float32),
            "peak_memory_mb": self._peak_memory(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Add to the run that is resumed."""
        self._total_seconds, self._total_tokens = state_dict["seconds"], state_dict["tokens"]
        self.resumed_at = list(state_dict["resumed_at"])
        self._content |= state_dict["validation"]
        self._step_ms, self._earlier_peak_mb = state_dict["step_ms"].tolist(), state_dict["peak_memory_mb"]

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step, due = trainer.global_step, False
        self._began, self._step = True, step
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                # a fresh run may lie over one that was killed before its first checkpoint
                logger.rewind(step if step else -1)
        if step:
            self.resumed_at.append(step)
            due = trainer.fit_loop._data_fetcher is not None and validation_is_due(trainer)
        root = Path(trainer.default_root_dir)
        data = getattr(trainer, "datamodule", None)
        if trainer.is_global_zero:
            summary = data.summary() if hasattr(data, "summary") else None
            replace_json(root / "environment.json", environment() | {"data": summary})
            self._content |= _costs(pl_module, getattr(data, "sequence_length", None))
            if hasattr(data, "prior_loss"):
                self._content["prior_loss"] = data.prior_loss()
            groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
            self._content["lost_share"] = lost_share(groups)
            if told := notice(self._content["lost_share"]):
                rank_zero_warn(told)
        self._device = pl_module.device
        forget_peak_memory(self._device)
        self._write(trainer, "running")
        # the checkpoint is written before the validation of its step, which may have been killed
        if trainer.strategy.broadcast(due and not self._has_row(trainer, step)):
            self._validate_once(trainer)

    def _has_row(self, trainer: Trainer, step: int) -> bool:
        files = [logger for logger in trainer.loggers if isinstance(logger, MetricsFile)]
        rows = {name: next((file.value(name, step) for file in files), None) for name in VALIDATION}
        if rows["val/loss"] is not None:
            self._validated = step
            self._content |= _as_fields({name: value for name, value in rows.items() if value is not None})
        return rows["val/loss"] is not None

    def _validate_once(self, trainer: Trainer) -> None:
        known = self._validated == trainer.global_step or self._has_row(trainer, trainer.global_step)
        if not trainer.strategy.broadcast(known) and trainer.enable_validation:
            validate(trainer)

    def _finish(self, trainer: Trainer, pl_module: LightningModule, status: str, **reason: str) -> None:
        times = sorted(self._step_ms)
        seconds = self._total_seconds
        self._content |= {
            "tokens": self._total_tokens,
            "seconds": seconds,
            "tokens_per_s": self._total_tokens / seconds if seconds else None,
            "peak_memory_mb": self._peak_memory(),
            "resumed_at": self.resumed_at,
        }
        if times:
            tenths = statistics.quantiles(times, n=10) if len(times) > 1 else times * 9
            self._content |= {"step_ms": statistics.median(times), "step_ms_p10": tenths[0], "step_ms_p90": tenths[8]}
        self._write(trainer, status, **reason)
        if status in ("finished", "diverged"):
            self._log_hyperparameters(trainer, pl_module)

    def _peak_memory(self) -> float:
        return max(self._earlier_peak_mb, peak_memory_mb(self._device))

    def _write(self, trainer: Trainer, status: str, **more: Any) -> None:
        if not trainer.is_global_zero:
            return
        for probe in (callback for callback in trainer.callbacks if isinstance(callback, SignalGain)):
            if probe.gains:
                self._content |= {
                    "gain_forward": probe.gains["forward"],
                    "gain_backward": probe.gains["backward"],
                    "gain_forward_max": probe.gains["forward_peak"],
                    "gain_backward_max": probe.gains["backward_peak"],
                }
        now = {"status": status, "step": trainer.global_step, "steps": trainer.max_steps, "pid": os.getpid()}
        replace_json(
            Path(trainer.default_root_dir) / "status.json", now | {"updated": time.time()} | self._content | more
        )
        self._written = time.monotonic()

    def _log_hyperparameters(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give TensorBoard's hparams page the run's plain arguments, its axes and its final metrics."""
        if not trainer.is_global_zero:
            return
        cell = Path(trainer.default_root_dir) / "cell.json"
        axes = json.loads(cell.read_text()).get("axes", {}) if cell.exists() else {}
        arguments = {**_leaves(dict(pl_module.hparams)), **{f"axis/{name}": value for name, value in axes.items()}}
        names = ("val_loss", "val_accuracy", "val_order_accuracy", "loss", "step_ms", "params", "flops_per_token")
        names += ("gain_forward", "gain_backward")
        metrics = {f"final/{name}": self._content[name] for name in names if self._content.get(name) is not None}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(arguments, metrics, step=trainer.global_step)


def _costs(module: LightningModule, sequence_length: int | None) -> dict[str, Any]:
    costs: dict[str, Any] = {"params": sum(parameter.numel() for parameter in module.parameters())}
    if hasattr(module, "budget") and sequence_length is not None:
        try:
            budget = module.budget(sequence_length)
        except (RuntimeError, NotImplementedError) as error:
            # an operation that the meta device lacks costs the figure, not the run
            rank_zero_warn(f"FLOPs are unknown: {error}")
        else:
            costs = {"params": budget.parameters, "flops_per_token": budget.flops_per_token}
    return costs


def _as_fields(metrics: Mapping[str, float]) -> dict[str, float]:
    """val/loss -> val_loss."""
    return {name.replace("/", "_"): value for name, value in metrics.items()}


def _now(module: LightningModule) -> float:
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return time.perf_counter()


def _leaves(tree: Any, name: str = "") -> dict[str, Any]:
    """Scalars of nested dictionaries under their dotted names."""
    if not isinstance(tree, dict):
        return {name: tree} if isinstance(tree, (bool, int, float, str)) else {}
    found: dict[str, Any] = {}
    for part, below in tree.items():
        found |= _leaves(below, f"{name}.{part}" if name else str(part))
    return found
