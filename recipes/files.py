"""Files that are replaced whole or not at all."""

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary neighbour to write to; it takes the file's place if the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    try:
        yield Path(name)
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def replace_file(path: str | os.PathLike[str], text: str) -> None:
    """Replace a file by a text, or leave it as it was."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def replace_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Replace a file by JSON; numbers that are not finite become null."""
    replace_file(path, json.dumps(_finite(content), indent=1, allow_nan=False, default=str) + "\n")


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


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return value
