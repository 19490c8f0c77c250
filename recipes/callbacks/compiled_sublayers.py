"""Compile the sublayers of a model before it trains."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mhc.trunk import Trunk


class CompiledSublayers(Callback):
    """Give every sublayer of every trunk to `torch.compile`, in place; topologies keep their own fused kernels.

    A graph is shared by all sublayers of the same kind, so that compiling takes as long for 4 blocks as for 64. Each
    shape has a graph of its own: batches of many lengths soon reach Dynamo's limit, which it says, and run eagerly.
    Names in checkpoints stay as they are, and what is probed (signal gain, queries) runs eagerly. It is done before
    FSDP2 shards.

    Args:
        backend: of `torch.compile`.

    Raises:
        ValueError: there is no such backend; on `setup`, the model has no trunk.
    """

    def __init__(self, backend: str = "inductor") -> None:
        if backend not in torch.compiler.list_backends(()):
            known = ", ".join(torch.compiler.list_backends())
            raise ValueError(f"CompiledSublayers.backend must be one of {known}, got {backend!r}")
        self.backend = backend

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compile what is not compiled yet: nothing runs before the first batch."""
        trunks = [module for module in pl_module.modules() if isinstance(module, Trunk)]
        if not trunks:
            raise ValueError(
                f"CompiledSublayers: {type(pl_module).__name__} has no trunk whose sublayers it could compile"
            )
        for trunk in trunks:
            for sublayer in trunk.sublayers:
                if sublayer._compiled_call_impl is None:
                    sublayer.compile(backend=self.backend, dynamic=False)
