"""What is looked at before a run writes its first file: the model without storage, the data, trainer and disk."""

import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from recipes.cli import CALLBACKS, Resolved
from recipes.errors import UserError

# weights and two moments of Adam, in fp32
CHECKPOINT_BYTES_PER_PARAMETER = 12


# options of a model that its FLOPs do not depend on
_COSTLESS = ("optimizer", "lr_scheduler")
_flops: dict[str, float | None] = {}


@dataclass(frozen=True)
class Costs:
    """What a resolved model costs, None where its module does not say.

    Attributes:
        parameters: of the model.
        flops_per_token: of a training step.
        tokens_per_step: over all processes.
        steps: optimizer steps the trainer is to make.
    """

    parameters: int
    flops_per_token: float | None
    tokens_per_step: int | None
    steps: int | None


def count_parameters(resolved: Resolved) -> int:
    """Parameters of the model, built on the meta device; raises UserError for what its parts refuse."""
    with torch.device("meta"):
        model = resolved.build("model")
    return sum(parameter.numel() for parameter in model.parameters())


def check_model(resolved: Resolved, flops: bool = False) -> Costs:
    """Build the model on the meta device; raises UserError for what its parts refuse.

    Args:
        resolved: configuration.
        flops: count them, too, by a training step on that device: seconds for a deep model.
    """
    options = (resolved.tree.get("data") or {}).get("init_args") or {}
    length, batch = options.get("sequence_length"), options.get("batch_size")
    tokens = length * batch if length and batch else None
    steps = resolved.tree["trainer"]["max_steps"]
    parameters = count_parameters(resolved)
    counted = count_flops(resolved, length) if flops and length else None
    return Costs(parameters, counted, tokens, steps if steps and steps > 0 else None)


def count_flops(resolved: Resolved, sequence_length: int) -> float | None:
    """FLOPs of a training step per token, None where the module does not say."""
    node, data = resolved.tree["model"], resolved.tree.get("data") or {}
    options = {key: value for key, value in (node.get("init_args") or {}).items() if key not in _COSTLESS}
    # what a page costs depends on how it is cut, which is the data's business
    views = (data.get("init_args") or {}).get("views")
    key = json.dumps([node["class_path"], options, sequence_length, views], sort_keys=True, default=str)
    if key not in _flops:
        with torch.device("meta"):
            model = resolved.build("model")
        more = {"views": resolved.build("data").views} if views else {}
        try:
            _flops[key] = model.budget(sequence_length, **more).flops_per_token if hasattr(model, "budget") else None
        except Exception as error:
            raise resolved.explain(error) from None
    return _flops[key]


def check_sources(resolved: Resolved) -> None:
    """Look at the weights that the model starts with; raises UserError for what is missing or does not fit."""
    with torch.device("meta"):
        model = resolved.build("model")
    if hasattr(model, "check_sources"):
        try:
            model.check_sources()
        except Exception as error:
            raise resolved.explain(error) from None


def check_data(resolved: Resolved) -> None:
    """Set the data up once; raises UserError for a corpus that is missing, empty, or short, or a small vocabulary."""
    if not resolved.tree.get("data"):
        return
    data = resolved.build("data")
    try:
        data.prepare_data()
        data.setup("fit")
    except Exception as error:
        raise resolved.explain(error) from None
    size = getattr(getattr(data, "vocabulary", None), "size", None)
    room = resolved.tree["model"]["init_args"].get("vocabulary_size")
    if size and room and size > room:
        raise UserError(
            f"{resolved.where}: model.init_args.vocabulary_size is {room}, but the data has {size} tokens; "
            f"set it to {size} or more"
        )


def check_trainer(resolved: Resolved) -> None:
    """Build callbacks and trainer without using them; raises UserError for options that do not go together."""
    for key in CALLBACKS:
        resolved.build(key)
    given = {**resolved.build("trainer"), "logger": False, "callbacks": None, "enable_checkpointing": False}
    with _quiet("lightning.pytorch"):
        try:
            Trainer(**given)
        except Exception as error:
            raise resolved.explain(error, "trainer") from None


def check_accelerator(scale: str, resolved: Resolved, overrides: list[str]) -> None:
    """Refuse work meant for a GPU on a machine without one; raises UserError."""
    asked = any(argument.startswith("--trainer.accelerator") for argument in overrides)
    if scale == "gpu" and not torch.cuda.is_available() and not asked:
        raise UserError(
            f"{resolved.where}: `scale: gpu`, and this machine has no GPU; look at it with --ablation.plan, "
            "or insist with --trainer.accelerator cpu"
        )


def check_folder(folder: Path, needed: int) -> None:
    """Write and remove a file in the folder or its nearest parent; raises UserError where that fails.

    Args:
        folder: of the results; it is not created.
        needed: bytes that the runs will take.
    """
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    trial = nearest / f".trial-{uuid.uuid4().hex}"
    remedy = "give another place with --ablation.output DIR"
    try:
        with trial.open("wb") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(nearest).free
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}; {remedy}") from None
    finally:
        with suppress(OSError):
            trial.unlink(missing_ok=True)
    if free < needed:
        raise UserError(f"{folder}: the disk is full: {_size(free)} free, about {_size(needed)} needed; {remedy}")


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
