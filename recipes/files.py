"""Files that are replaced whole or not at all."""

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


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
        temporary.write_text(text, encoding="utf-8")


def replace_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Replace a file by JSON; numbers that are not finite become null."""
    replace_file(path, json.dumps(_finite(content), indent=1, allow_nan=False, default=str) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return value
