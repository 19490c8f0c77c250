"""End a run that diverges."""

import math
from collections.abc import Mapping

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from recipes.callbacks.measure import gradient_norm
from recipes.callbacks.signal_gain import SignalGain


class DivergedError(Exception):
    """A run diverged: a result, not a crash.

    Args:
        reason: what happened, and at which step.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class DivergenceGuard(Callback):
    """Raise `DivergedError` on a loss or gradient that is not finite, before it is applied, or on too much gain.

    Args:
        max_gain: largest composite signal gain, forward or backward, mean over the probe's tokens; None allows any.
            It is checked where `SignalGain` probes.

    Raises:
        ValueError: `max_gain` not above 1; on `setup`, a `max_gain` without a `SignalGain`.
    """

    def __init__(self, max_gain: float | None = None) -> None:
        if max_gain is not None and not max_gain > 1:
            raise ValueError(f"divergence_guard.max_gain must be above 1, got {max_gain}")
        self.max_gain = max_gain
        self._loss: Tensor | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen to the probe.

        Raises:
            ValueError: there is a `max_gain` and no `SignalGain` that could measure it.
        """
        probes = [callback for callback in trainer.callbacks if isinstance(callback, SignalGain)]
        if self.max_gain is not None and not probes:
            raise ValueError("divergence_guard.max_gain needs the SignalGain callback: add it, or set max_gain to null")
        for probe in probes:
            if self.check_gain not in probe.listeners:
                probe.listeners.append(self.check_gain)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Remember the loss; one process's may be the only one that is not finite."""
        self._loss = loss.detach()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Look at loss and gradients.

        Raises:
            DivergedError: one is not finite on some process.
        """
        loss = torch.zeros(()) if self._loss is None else self._loss
        norm = gradient_norm(trainer, pl_module)
        # with a loss scaler (16-mixed) an infinite gradient lowers the scale and skips the step: that is no divergence
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        finite = bool(torch.isfinite(loss).all()) and (scaled or bool(torch.isfinite(norm)))
        if trainer.strategy.reduce_boolean_decision(finite):
            return
        step = trainer.global_step + 1
        if not math.isfinite(float(loss)):
            raise DivergedError(f"the loss is {float(loss)} at step {step}")
        raise DivergedError(f"the gradient norm is {float(norm)} at step {step}")

    def check_gain(self, step: int, gains: Mapping[str, float]) -> None:
        """Compare the composite gains of a probe with the threshold.

        Raises:
            DivergedError: one is above it, or not a number.
        """
        for side in ("forward", "backward"):
            gain = gains[side]
            if self.max_gain is not None and not gain <= self.max_gain:
                raise DivergedError(f"the {side} composite gain is {gain:.4g}, above {self.max_gain:g}, at step {step}")
