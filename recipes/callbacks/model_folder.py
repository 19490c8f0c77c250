"""The trained model as a folder that `recipes.read`, the next stage and transformers read."""

import copy
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from encoders.checkpoint import save_weights
from mhc import build, describe
from recipes.modules.lora import merged_weights


class ModelFolder(Callback):
    """Write the model when training ends: config.json, safetensors, and the data's tokenizer if it has one.

    Adapters are merged into the weights, so that the folder has the released layout. The weights come last, whole or
    not at all: a folder that has them is complete. A run that diverges or is interrupted writes none.

    Args:
        folder: within `trainer.default_root_dir`.
    """

    def __init__(self, folder: str = "model") -> None:
        self.folder = folder
        self._written = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it."""
        self._write(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it, if a resumed run had nothing left to train."""
        if not self._written:
            self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, module: LightningModule) -> None:
        state = {}
        for name, weight in merged_weights(module.network):
            if trainer.is_global_zero:
                state[name] = weight
        self._written = True
        if not trainer.is_global_zero:
            return
        with torch.device("meta"):
            network = build(describe(module.network))
        network.load_state_dict(state, assign=True)
        folder = Path(trainer.default_root_dir) / self.folder
        processor = copy.copy(getattr(getattr(trainer, "datamodule", None), "processor", None))
        if processor is not None:
            views, count = processor.views, network.vision.tokens_per_view
            processor.page_tokens = count(views.global_size, views.global_size)
            if views.max_crops:
                processor.crop_tokens = count(views.crop_size, views.crop_size)
            processor.save_pretrained(folder)
        if hasattr(network, "save_pretrained"):
            network.save_pretrained(folder)
        else:
            save_weights(network, folder)
