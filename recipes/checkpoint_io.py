"""Checkpoints that are replaced whole or not at all."""

from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from recipes.files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints beside their place and move them in.

    Lightning's own writes to the system's temporary folder, and its move is a copy where that is another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save a checkpoint whole or not at all.

        Raises:
            TypeError: storage options, which local files do not have.
        """
        if storage_options is not None:
            raise TypeError("AtomicCheckpointIO takes no storage_options")
        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)
