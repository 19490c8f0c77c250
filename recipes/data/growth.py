"""How made-up pages grow while a model learns to read them."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from recipes.data.page_batch import PageBatch


class Growth(ABC):
    """Which level the pages of an optimizer step have."""

    @abstractmethod
    def level(self, step: int, draw: float, levels: int) -> int:
        """The level of a page, from 1 to `levels`.

        Args:
            step: optimizer steps before the page's.
            draw: a number from 0 to 1, the page's own.
            levels: of the task.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: B027  a schedule has no state
        """Go on with it."""


class FullSize(Growth):
    """Every page is of the last level."""

    def level(self, step: int, draw: float, levels: int) -> int:
        """Give the last level."""
        return levels


class GrowBySteps(Growth):
    """One level more every so many steps, whatever the model makes of it: every variant sees the same pages.

    Args:
        steps: after which pages are of the last level.
        mixed: a page's level is drawn from all levels reached so far; otherwise it is the one just reached.

    Raises:
        ValueError: less than 0 steps.
    """

    def __init__(self, steps: int, mixed: bool = False) -> None:
        if steps < 0:
            raise ValueError(f"data.growth.steps must not be negative, got {steps}")
        self.steps, self.mixed = steps, mixed

    def level(self, step: int, draw: float, levels: int) -> int:
        """Give the level that the schedule has reached."""
        reached = levels if step >= self.steps else 1 + step * (levels - 1) // self.steps
        return min(1 + int(draw * reached), reached) if self.mixed else reached


class GrowByAccuracy(Growth):
    """One level more whenever the model reads a batch of the present one well enough: each variant at its own pace.

    Args:
        threshold: token accuracy that has to be passed.
        every_n_steps: how often it is looked at; a look costs a forward pass.

    Raises:
        ValueError: a threshold outside 0 to 1, or a count below 1.
    """

    def __init__(self, threshold: float = 0.85, every_n_steps: int = 10) -> None:
        if not 0 < threshold < 1 or every_n_steps < 1:
            raise ValueError(
                "data.growth.threshold must be above 0 and below 1 and every_n_steps at least 1, got "
                f"{threshold} and {every_n_steps}"
            )
        self.threshold, self.every_n_steps = threshold, every_n_steps
        self.reached = 1

    def level(self, step: int, draw: float, levels: int) -> int:
        """Give the level that the model has reached."""
        return min(self.reached, levels)

    def state_dict(self) -> dict[str, Any]:
        """The level that the model has reached."""
        return {"reached": self.reached}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the level that was reached."""
        self.reached = state_dict["reached"]


class Raise(Callback):
    """Look at the accuracy for `GrowByAccuracy`."""

    def __init__(self, growth: GrowByAccuracy) -> None:
        self.growth = growth

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: PageBatch, batch_idx: int
    ) -> None:
        """Raise the level where the batch, which was trained on once, is read well enough."""
        if trainer.global_step % self.growth.every_n_steps or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        asked = batch.labels >= 0
        right = (pl_module(batch.tokens, batch.images).argmax(-1) == batch.labels)[asked].float().mean()
        right = trainer.strategy.reduce(right, reduce_op="mean") if trainer.world_size > 1 else right
        self.growth.reached += int(float(right) > self.growth.threshold)
