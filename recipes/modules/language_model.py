"""The causal language model as a Lightning module."""

from collections.abc import Callable
from typing import Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mhc import CausalLanguageModel, Context, ResidualTopology
from mhc.context import Observer
from mhc.trunk import Trunk
from recipes.budget import Budget
from recipes.modules.optimization import Optimized, cross_entropy

Batch = tuple[Tensor, Tensor]


class LanguageModel(Optimized):
    """Train `mhc.CausalLanguageModel` on (inputs [B, S], targets [B, S]); losses are nats per token.

    Args:
        vocabulary_size: V.
        width: C.
        depth: blocks of an attention and a feed-forward sublayer.
        topology: (width, sublayer index) -> ResidualTopology.
        attention: width -> attention sublayer.
        feed_forward: width -> feed-forward sublayer.
        optimizer: parameter groups -> optimizer.
        lr_scheduler: optimizer -> schedule, stepped once an optimizer step; None holds the rate.
        tied: the head is the embedding.
        recompute: of the trunk: None, "auto" or every how many sublayers the streams are kept.

    Raises:
        ValueError: a size the model or its parts refuse.
    """

    def __init__(
        self,
        vocabulary_size: int,
        width: int,
        depth: int,
        topology: Callable[[int, int], ResidualTopology],
        attention: Callable[[int], nn.Module],
        feed_forward: Callable[[int], nn.Module],
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None = None,
        tied: bool = True,
        recompute: int | Literal["auto"] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.vocabulary_size = vocabulary_size
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self._make = lambda: CausalLanguageModel(
            vocabulary_size,
            width,
            depth,
            topology=topology,
            attention=attention,
            feed_forward=feed_forward,
            tied=tied,
            recompute=recompute,
        )
        self.network = self._make()

    def setup(self, stage: str) -> None:
        """Compare the vocabularies.

        Raises:
            ValueError: the data has tokens that the model lacks.
        """
        vocabulary = getattr(getattr(self._trainer, "datamodule", None), "vocabulary", None)
        if vocabulary is not None and vocabulary.size > self.vocabulary_size:
            raise ValueError(
                f"model.vocabulary_size is {self.vocabulary_size} but data.vocabulary has {vocabulary.size} tokens: "
                f"raise model.vocabulary_size to {vocabulary.size}"
            )

    @property
    def trunk(self) -> Trunk:
        """The network's only one."""
        return self.network.trunk

    def forward(self, tokens: Tensor) -> Tensor:
        """Token numbers [B, S] -> logits [B, S, V]."""
        return self.network(tokens)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean cross-entropy, a scalar."""
        loss = cross_entropy(self.network(batch[0]), batch[1])
        self.log("train/loss", loss, prog_bar=True, logger=False)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the mean cross-entropy over the validation split as `val/loss`."""
        loss = cross_entropy(self.network(batch[0]), batch[1])
        self.log("val/loss", loss, prog_bar=True, logger=False, on_epoch=True, sync_dist=True, batch_size=len(batch[0]))

    def probe(self, batch: Batch, observe: Observer) -> Tensor:
        """Run the network on a batch while `observe(index, topology, state, carry)` looks on; returns the logits."""
        return self.network(batch[0], Context(observe=observe))

    def budget(self, sequence_length: int) -> Budget:
        """Count parameters and FLOPs at sequences of S tokens, on a copy without storage."""
        with torch.device("meta"):
            network = self._make()
            network.trunk.recompute = None  # the model's FLOPs, not what a step of it costs
            tokens = torch.zeros(1, sequence_length, dtype=torch.int64)
            with FlopCounterMode(display=False) as counter:
                cross_entropy(network(tokens), tokens).backward()
        parameters = sum(parameter.numel() for parameter in network.parameters())
        return Budget(parameters, counter.get_total_flops() / sequence_length)
