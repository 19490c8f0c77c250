"""Whole checkpoints of DeepSeek-OCR 2 and of models made of other parts, in and out."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from encoders.checkpoint import Checkpoint, CheckpointError, load_weights, read_json, save_weights, some
from encoders.ocr2 import OCR2
from encoders.released_config import ocr2_node
from encoders.transformers_config import transformers_fields
from mhc import build, describe
from mhc.description import Node

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_ocr2(
    folder: str | os.PathLike[str],
    *,
    architecture: Node | None = None,
    fresh: Sequence[str] = (),
    ignore: Sequence[str] = (),
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> OCR2:
    """Read a model: one that `save_ocr2` wrote, the released one, or one that transformers wrote.

    Args:
        folder: with config.json and safetensors.
        architecture: the node of the model to make, in place of the one that config.json tells, for other topologies
            or parts; name in `fresh` what the checkpoint lacks then, such as "*topologies*".
        fresh: patterns of names in the state dict that may start anew.
        ignore: patterns of the checkpoint's names that are passed over.
        dtype: of the weights but for the topologies'; None for the checkpoint's.
        device: None for torch's default.

    Raises:
        CheckpointError: a config.json or weights that are missing, damaged or do not fit, each named; settings that our
            parts do not know; weights of several dtypes where none is asked for.
        ValueError: a wrong `architecture`.
    """
    folder = Path(folder)
    node = architecture if architecture is not None else ocr2_node(read_json(folder / "config.json"))
    if fresh:
        model = build(node)
    else:
        with _Undrawn():
            model = build(node)
    if not isinstance(model, OCR2):
        raise CheckpointError(f"{folder} holds a {type(model).__name__} and no OCR2")
    model.to(device=device, dtype=_dtype_of(folder) if dtype is None else dtype)
    load_weights(model, folder, fresh=fresh, ignore=ignore)
    return model


def save_ocr2(model: OCR2, folder: str | os.PathLike[str], *, shard_bytes: float = 5e9) -> None:
    """Write a model's config.json and weights, under the released names as far as it has any.

    Args:
        model: to write.
        folder: made if need be; a checkpoint that it holds is replaced once the new one is written.
        shard_bytes: of a file, at most.

    Raises:
        TypeError: a part that cannot be written down.
        OSError: the folder cannot be written.
    """
    text = json.dumps(to_config(model), indent=2) + "\n"
    save_weights(model, folder, shard_bytes=shard_bytes, beside={"config.json": text})


def to_config(model: OCR2) -> dict[str, Any]:
    """The config.json of a model: its node, and transformers' fields where its DeepSeek-OCR 2 is the same function.

    Raises:
        TypeError: a part that cannot be written down.
    """
    node = describe(model)
    return transformers_fields(model, node) | {"architecture": node}


def _dtype_of(folder: Path) -> torch.dtype:
    with Checkpoint(folder) as checkpoint:
        # a topology's are fp32 whatever the others are
        kinds = sorted({checkpoint.dtype(key) for key in checkpoint if ".topologies." not in key})
    if len(kinds) != 1 or kinds[0] not in _DTYPES:
        raise CheckpointError(f"the weights of {folder} are {some(kinds)}: give the dtype that they shall have")
    return _DTYPES[kinds[0]]


class _Undrawn(TorchFunctionMode):
    """Leave out the drawing of weights that are loaded a moment later."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWING:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


# torch's initialisers come here as themselves, and what they call inside no more
_DRAWING = {Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_}
_DRAWING |= {nn.init.trunc_normal_, nn.init.xavier_uniform_}
