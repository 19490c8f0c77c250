"""Stop between two steps, with everything needed to go on."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class Interrupted(Exception):
    """SIGINT or SIGTERM ended a run after a finished step, which `checkpoints/last.ckpt` holds if any are kept."""


class Interruption(Callback):
    """Finish the step on SIGINT or SIGTERM, save `checkpoints/last.ckpt` and raise `Interrupted`.

    It saves the last step of a run, too; nothing where `checkpoint.save_top_k` is 0, which keeps none. A second SIGINT
    does not wait for the step. `RunRecord` puts one behind the other callbacks, so that the step is complete in their
    files.
    """

    def __init__(self) -> None:
        self._handlers: dict[signal.Signals, Any] = {}
        self._signal: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over, from Lightning's handler too: it broadcasts between processes at any moment."""
        self._signal = None
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
            for number in self._handlers:
                signal.signal(number, self._note)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and raise if a process was told to stop; save if this step is the last one.

        Raises:
            Interrupted: a signal came.
        """
        if trainer.fit_loop._should_accumulate():
            return
        last = trainer.global_step == trainer.max_steps
        stop = trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False)
        if last or stop:
            save_last(trainer)
        if stop and not last:
            name = signal.Signals(self._signal).name if self._signal else "a signal to another process"
            raise Interrupted(f"stopped by {name} after step {trainer.global_step}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def last_checkpoint(trainer: Trainer) -> Path:
    """Where the run's last checkpoint lies."""
    return Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"


def save_last(trainer: Trainer) -> None:
    """Save the current step as the last checkpoint, unless it is there already or none is to be kept."""
    path = last_checkpoint(trainer)
    own = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    if own and all(callback.save_top_k == 0 for callback in own):
        return
    saved = any(
        callback._last_global_step_saved == trainer.global_step
        and Path(callback._last_checkpoint_saved).resolve() == path.resolve()
        for callback in own
    )
    if not saved and not trainer.fast_dev_run:
        trainer.save_checkpoint(path)
