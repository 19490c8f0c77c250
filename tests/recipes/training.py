"""Small models, corpora and trainers for the tests of training."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from mhc import Attention, FeedForward, HyperConnection, ManifoldHyperConnection, Residual
from recipes.callbacks import DivergenceGuard, RunRecord, SignalGain, checkpoint_defaults
from recipes.data import TextCorpus
from recipes.loggers import MetricsFile
from recipes.modules import LanguageModel
from recipes.schedules import WarmupCosine

TOPOLOGIES = {
    "residual": Residual,
    "hc": partial(HyperConnection, streams=2),
    "mhc": partial(ManifoldHyperConnection, streams=2, sinkhorn_steps=5),
}
LINES = [f"line {k} counts {k * k} and {k % 7} more" for k in range(400)]


def model(topology: str = "mhc", *, seed: int = 0, **changes: Any) -> LanguageModel:
    seed_everything(seed, verbose=False)
    arguments: dict[str, Any] = {
        "vocabulary_size": 256,
        "width": 16,
        "depth": 2,
        "topology": TOPOLOGIES[topology],
        "attention": partial(Attention, heads=2),
        "feed_forward": partial(FeedForward, hidden=32),
        "optimizer": partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.1),
        "lr_scheduler": partial(WarmupCosine, warmup_steps=2, steps=20),
    }
    return LanguageModel(**(arguments | changes))


def corpus(folder: Path, **changes: Any) -> TextCorpus:
    path = folder / "corpus.txt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(LINES))
    arguments: dict[str, Any] = {
        "path": str(path),
        "sequence_length": 16,
        "batch_size": 4,
        "split_blocks": 4,
        "validation_batches": 2,
    }
    return TextCorpus(**(arguments | changes))


def trainer(folder: Path, steps: int, *callbacks: Any, every: int = 2, **changes: Any) -> Trainer:
    arguments: dict[str, Any] = {
        "max_steps": steps,
        "default_root_dir": folder,
        "accelerator": "cpu",
        "logger": [MetricsFile(str(folder))],
        "callbacks": [
            SignalGain(every_n_steps=4),
            DivergenceGuard(),
            RunRecord(),
            ModelCheckpoint(**(checkpoint_defaults(folder) | {"every_n_train_steps": every})),
            *callbacks,
        ],
        "val_check_interval": 5,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**(arguments | changes))


def rows(folder: Path) -> list[tuple[int, str, float]]:
    with (folder / "metrics.csv").open() as file:
        return [(int(row["step"]), row["metric"], float(row["value"])) for row in csv.DictReader(file)]


def series(folder: Path, metric: str) -> dict[int, float]:
    found = [(step, value) for step, name, value in rows(folder) if name == metric]
    assert len(found) == len(dict(found)), f"a step twice in {metric}"
    return dict(found)
