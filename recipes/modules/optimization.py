"""What every Lightning module of the recipes does the same way: optimizer, sharding, checkpoints."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from mhc import parameter_groups
from mhc.trunk import Trunk
from recipes.precision import MasterWeights


class Optimized(LightningModule, ABC):
    """A Lightning module around one network.

    Attributes:
        network: what is trained.
        optimizer: parameter groups -> optimizer.
        lr_scheduler: optimizer -> schedule, stepped once an optimizer step; None holds the rate.
    """

    network: nn.Module
    optimizer: OptimizerCallable
    lr_scheduler: LRSchedulerCallable | None

    @property
    @abstractmethod
    def trunk(self) -> Trunk:
        """The trunk that `probe` looks into."""

    def configure_model(self) -> None:
        """Shard under `ModelParallelStrategy` (FSDP2): each sublayer a unit, each trunk one, then the rest.

        What is left to a trunk are the topologies' parameters: all fp32, and gathered once, because a topology
        reads its neighbour's in `combine_aggregate`.

        Raises:
            ValueError: a tensor-parallel size above 1, or `MasterWeights` without FSDP2.
        """
        mesh, plugin = self.device_mesh, self._trainer and self.trainer.precision_plugin
        masters = isinstance(plugin, MasterWeights)
        if mesh is None and masters:
            raise ValueError(
                "trainer.plugins has MasterWeights, whose copies in bf16 FSDP2 makes: set trainer.strategy to "
                "ModelParallelStrategy with tensor_parallel_size 1 and data_parallel_size the number of processes, "
                "which may be 1"
            )
        if mesh is None or isinstance(self.network, FSDPModule):
            return
        policy = plugin.policy() if masters else MixedPrecisionPolicy()
        if mesh["tensor_parallel"].size() > 1:
            raise ValueError(
                f"trainer.strategy.tensor_parallel_size is {mesh['tensor_parallel'].size()}, but "
                f"{type(self).__name__} shards over data alone: set it to 1 and data_parallel_size to the number of "
                "processes"
            )
        data = mesh["data_parallel"]
        for trunk in [module for module in self.network.modules() if isinstance(module, Trunk)]:
            for sublayer in trunk.sublayers:
                fully_shard(sublayer, mesh=data, mp_policy=policy)
            fully_shard(trunk, mesh=data, reshard_after_forward=False)
        fully_shard(self.network, mesh=data, mp_policy=policy)
        if hasattr(self.network, "generate"):
            register_fsdp_forward_method(self.network, "generate")

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained, in the optimizer's groups."""
        return parameter_groups(self.network)

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its schedule.

        The group that decays has no `weight_decay` of its own and so takes the one the optimizer was configured with.
        """
        optimizer = self.optimizer(self.parameter_groups())
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
    """Mean cross-entropy in nats of logits [B, S, V] and targets [B, S], in fp32; a target of -100 is not asked."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten())


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return type(value) is dict and all(_is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple)):
        return all(_is_plain(part) for part in value)
    return value is None or type(value) in (bool, int, float, str)
