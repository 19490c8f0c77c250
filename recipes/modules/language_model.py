"""The causal language model as a Lightning module."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils.flop_counter import FlopCounterMode

from mhc import CausalLanguageModel, Context, ResidualTopology, parameter_groups
from mhc.context import Observer
from recipes.budget import Budget

Batch = tuple[Tensor, Tensor]


class LanguageModel(LightningModule):
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

    def configure_model(self) -> None:
        """Shard under `ModelParallelStrategy` (FSDP2): each sublayer a unit, the trunk one, then the rest.

        What is left to the trunk are the topologies' parameters: all fp32, and gathered once, because a topology
        reads its neighbour's in `combine_aggregate`.

        Raises:
            ValueError: a tensor-parallel size above 1.
        """
        mesh = self.device_mesh
        if mesh is None or isinstance(self.network, FSDPModule):
            return
        if mesh["tensor_parallel"].size() > 1:
            raise ValueError(
                f"trainer.strategy.tensor_parallel_size is {mesh['tensor_parallel'].size()}, but LanguageModel shards "
                "over data alone: set it to 1 and data_parallel_size to the number of processes"
            )
        data = mesh["data_parallel"]
        for sublayer in self.network.trunk.sublayers:
            fully_shard(sublayer, mesh=data)
        fully_shard(self.network.trunk, mesh=data, reshard_after_forward=False)
        fully_shard(self.network, mesh=data)

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

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its schedule.

        The group that decays has no `weight_decay` of its own and so takes the one the optimizer was configured with.
        """
        optimizer = self.optimizer(parameter_groups(self.network))
        if self.lr_scheduler is None:
            return optimizer
        # the key is exact: another one only warns, and the rate never moves
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.lr_scheduler(optimizer), "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what `weights_only` loading accepts: the CLI gives parsed configuration, a script live factories."""
        hyperparameters = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY)
        if hyperparameters is not None:
            plain = {name: value for name, value in hyperparameters.items() if _is_plain(value)}
            checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = plain


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits [B, S, V] and targets [B, S], in fp32."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten())


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return type(value) is dict and all(_is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple)):
        return all(_is_plain(part) for part in value)
    return value is None or type(value) in (bool, int, float, str)
