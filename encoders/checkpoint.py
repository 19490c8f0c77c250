"""Weights in and out of safetensors files, whole or not at all."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from encoders.names import released_names
from mhc.names import Names

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that does not fit the module."""


class Checkpoint:
    """The tensors of one safetensors file or of a folder's shards, read one at a time; a context manager.

    Args:
        source: a .safetensors file, or a folder with model.safetensors or its shards and their index.

    Raises:
        CheckpointError: no such checkpoint, a pickle, a damaged file, a missing shard, or an index that is wrong.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.source = Path(source)
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        with ExitStack() as stack:
            for path, promised in _files_of(self.source).items():
                file = stack.enter_context(_open(path))
                keys = set(file.keys())
                if absent := sorted(promised - keys):
                    raise CheckpointError(f"{path.name} of {self.source} lacks what its index promises: {some(absent)}")
                self._files |= dict.fromkeys(keys, file)
            self._stack = stack.pop_all()

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __contains__(self, key: str) -> bool:
        return key in self._files

    def shape(self, key: str) -> list[int]:
        """Of a tensor that is not read yet."""
        return list(self._files[key].get_slice(key).get_shape())

    def dtype(self, key: str) -> str:
        """Of a tensor that is not read yet, as safetensors writes it: F32, BF16, ..."""
        return str(self._files[key].get_slice(key).get_dtype())

    def read(self, key: str) -> Tensor:
        """The tensor, on the CPU.

        Raises:
            CheckpointError: it cannot be read.
        """
        try:
            return self._files[key].get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{key} of {self.source} cannot be read: {error}") from error


def load_weights(
    module: nn.Module,
    source: str | os.PathLike[str],
    names: Names | None = None,
    *,
    fresh: Sequence[str] = (),
    ignore: Sequence[str] = (),
    prefix: str = "",
) -> None:
    """Copy a checkpoint's tensors into a module, after all their names and shapes are found right.

    The module keeps its dtypes and devices.

    Args:
        module: takes the weights in place.
        source: a .safetensors file or a folder of them.
        names: checkpoint name -> slot; None takes `released_names(module)`.
        fresh: patterns (fnmatch) of names in the module's state dict that keep their values where the checkpoint has
            no such tensor or one of another shape.
        ignore: patterns of checkpoint names that are passed over where the module has no place for them.
        prefix: of every name in the checkpoint.

    Raises:
        CheckpointError: names missing, unexpected or of a wrong shape or kind, a module without storage, or a file that
            `Checkpoint` refuses; the module is as before, unless a file breaks while it is read.
    """
    state = module.state_dict()
    if any(tensor.is_meta for tensor in state.values()):
        raise CheckpointError(f"{type(module).__name__} is on the meta device: give it storage with to_empty() first")
    places = {prefix + name: slot for name, slot in (released_names(module) if names is None else names).items()}
    with Checkpoint(source) as checkpoint:
        kept = {key for key, slot in places.items() if _matches(slot.name, fresh)}
        problems = []
        if missing := [key for key in places if key not in checkpoint and key not in kept]:
            problems.append(f"lacks {some(missing)}")
        if unexpected := sorted(key for key in checkpoint if key not in places and not _matches(key, ignore)):
            problems.append(f"has what {type(module).__name__} has no place for: {some(unexpected)}")
        wrong, read = [], []
        for key, slot in places.items():
            if key not in checkpoint:
                continue
            place = slot.of(state)
            if (
                checkpoint.shape(key) == list(place.shape)
                and _is_floating(checkpoint, key) == place.is_floating_point()
            ):
                read.append((key, place))
            elif key not in kept:
                wrong.append(
                    f"{key} {_form(checkpoint.shape(key), checkpoint.dtype(key))} for {slot.name} "
                    f"{_form(place.shape, place.dtype)}"
                )
        loaded: set[str] = {key for key, _ in read}
        fused: dict[str, list[str]] = {}
        for key, slot in places.items():
            fused.setdefault(slot.name, []).append(key)
        for keys in fused.values():
            if 0 < len(left := [key for key in keys if key not in loaded and key in kept]) < len(keys):
                problems.append(f"lacks {some(left)}, which one tensor holds together with others that it has")
        if wrong:
            problems.append(f"has tensors of another form: {some(wrong)}")
        if problems:
            remedy = ": name in fresh what shall start anew" if missing or wrong else ""
            raise CheckpointError(f"the checkpoint {checkpoint.source} {'; it '.join(problems)}{remedy}")
        with torch.no_grad():
            for key, place in read:
                place.copy_(checkpoint.read(key))


def save_weights(
    module: nn.Module,
    folder: str | os.PathLike[str],
    names: Names | None = None,
    *,
    shard_bytes: float = 5e9,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Write a module's tensors to a folder: model.safetensors, or shards and their index where one would be too large.

    Everything is written beside the old checkpoint before that is touched.

    Args:
        module: whose state is written.
        folder: made if need be; a checkpoint that it holds is replaced.
        names: checkpoint name -> slot; None takes `released_names(module)`.
        shard_bytes: a shard is at most so large, but for a single larger tensor.
        beside: texts by file name that belong to the weights and are written with them.

    Raises:
        CheckpointError: a module without storage.
        OSError: the folder cannot be written; the old checkpoint is as before.
    """
    folder, state = Path(folder), module.state_dict()
    if any(tensor.is_meta for tensor in state.values()):
        raise CheckpointError(f"{type(module).__name__} is on the meta device: there is nothing to write")
    names = released_names(module) if names is None else names
    shards = _shards({name: slot.of(state).nbytes for name, slot in names.items()}, shard_bytes)
    files = (
        [SINGLE]
        if len(shards) == 1
        else [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    beside = beside or {}
    written = [*beside, *files, *([INDEX] if len(shards) > 1 else [])]
    with replacing(folder, written, _old(folder)) as temporary:
        for file, text in beside.items():
            temporary[file].write_text(text, encoding="utf-8")
        for file, shard in zip(files, shards, strict=True):
            # a copy of each, as safetensors refuses tensors that share memory
            tensors = {
                name: names[name].of(state).detach().cpu().clone(memory_format=torch.contiguous_format)
                for name in shard
            }
            # safetensors makes files that nobody else may read
            temporary[file].touch()
            mode = temporary[file].stat().st_mode
            save_file(tensors, temporary[file], metadata={"format": "pt"})
            temporary[file].chmod(mode)
        if len(shards) > 1:
            size = sum(slot.of(state).nbytes for slot in names.values())
            where = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
            index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
            temporary[INDEX].write_text(json.dumps(index, indent=2) + "\n")


@contextmanager
def replacing(folder: Path, files: Sequence[str], old: Iterable[str] = ()) -> Iterator[dict[str, Path]]:
    """Give temporary paths for files of a folder; put these in their places, in order, when all are written.

    Where there are shards, `old` is removed before the first is put, so that no reader takes a mixture for a
    checkpoint; what is left of `old` is removed in any case.
    """
    temporary = {file: folder / f".{file}.{os.getpid()}.part" for file in files}
    try:
        yield temporary
        old = set(old)
        if INDEX in files:
            for file in sorted(old, key=lambda file: file != INDEX):
                (folder / file).unlink(missing_ok=True)
        for file, path in temporary.items():
            os.replace(path, folder / file)
        for file in old - set(files):
            (folder / file).unlink(missing_ok=True)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def some(names: Sequence[str], most: int = 4) -> str:
    """The first few of many names, and how many more there are."""
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        CheckpointError: it is missing, no JSON, or something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}: give the folder of a checkpoint") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no JSON file: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__} and not an object")
    return value


def _files_of(source: Path) -> dict[Path, set[str]]:
    if source.suffix in PICKLES and source.is_file():
        raise CheckpointError(f"{source} is a pickle, which could run code: {_REMEDY}")
    if source.is_file():
        return {source: set()}
    if not source.is_dir():
        raise CheckpointError(f"there is no checkpoint {source}")
    single, index = source / SINGLE, source / INDEX
    if single.exists() and index.exists():
        raise CheckpointError(f"{source} has both {SINGLE} and {INDEX}: remove the one that is old")
    if single.exists():
        return {single: set()}
    if index.exists():
        return _shards_of(index)
    pickles = sorted(path.name for path in source.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise CheckpointError(f"{source} holds pickles alone ({some(pickles)}), which could run code: {_REMEDY}")
    raise CheckpointError(f"{source} has neither {SINGLE} nor {INDEX}")


def _shards_of(index: Path) -> dict[Path, set[str]]:
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(file, str) for file in where.values()):
        raise CheckpointError(f"{index} has no weight_map from names to files")
    files: dict[Path, set[str]] = {}
    for key, file in where.items():
        if Path(file).name != file:
            raise CheckpointError(f"{index} names a file outside its folder: {file}")
        files.setdefault(index.parent / file, set()).add(key)
    if absent := sorted(path.name for path in files if not path.is_file()):
        raise CheckpointError(f"{index.parent} lacks shards that {index.name} names: {some(absent)}")
    return files


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no whole safetensors file ({error}): fetch it again") from error


def _old(folder: Path) -> set[str]:
    old = {file for file in (SINGLE, INDEX) if (folder / file).exists()}
    return old | {path.name for path in folder.glob("model-?????-of-?????.safetensors")}


def _shards(sizes: dict[str, int], most: float) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > most:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_floating(checkpoint: Checkpoint, key: str) -> bool:
    return checkpoint.dtype(key).startswith(("F", "BF"))


def _form(shape: Sequence[int], dtype: object) -> str:
    return f"{list(shape)} ({str(dtype).removeprefix('torch.')})"


_REMEDY = "convert it to safetensors, for example with transformers' save_pretrained"
