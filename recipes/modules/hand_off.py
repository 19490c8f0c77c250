"""What a run starts with: parts of another run's model, or of pretrained sources."""

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from encoders.causal_flow import CausalFlowEncoder
from encoders.checkpoint import Checkpoint, CheckpointError, read_json, some
from encoders.names import Names, Slot, released_names
from encoders.ocr2 import OCR2
from encoders.pretrained import TOPOLOGIES, load_causal_flow, load_decoder, load_sam
from encoders.released_config import ocr2_node
from encoders.sam import SAMTokenizer
from mhc import CausalLanguageModel, build
from recipes.modules.parts import require_used, within

# what the shapes do not tell: with another value the same weights mean something else
UNSEEN = ("heads", "key_value_heads", "rotary_base", "window", "chosen")
PREFIX = "network."


@dataclass(frozen=True)
class StartFrom:
    """Parts of a trained model, by our names.

    Attributes:
        path: a folder with config.json and safetensors (of `OCR2.save_pretrained`, transformers, or as released), or a
            Lightning checkpoint of a run.
        parts: patterns of names; what they leave out keeps its values.
        fresh: patterns of names in these parts that keep their values where the source has none or another shape.
    """

    path: str
    parts: tuple[str, ...] = ("*",)
    fresh: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pretrained:
    """A source of one part, by its own model's names: a SAM, a Qwen2, a DeepSeek mixture of experts, an OCR 1 or 2.

    Attributes:
        path: a folder with safetensors, see `encoders.pretrained`.
        fresh: patterns of the part's names that keep their values where the source has none; topologies always do.
    """

    path: str
    fresh: tuple[str, ...] = ()


# which class takes which source
LOADERS: dict[str, tuple[str, type[nn.Module], Callable[..., None]]] = {
    "tokenizer": ("vision.tokenizer", SAMTokenizer, load_sam),
    "encoder": ("vision.encoder", CausalFlowEncoder, load_causal_flow),
    "decoder": ("decoder", CausalLanguageModel, load_decoder),
}


def require_pretrained(network: OCR2, sources: Mapping[str, Pretrained]) -> None:
    """Raise a ValueError for a part that there is no source for."""
    for part in sources:
        if part not in LOADERS:
            raise ValueError(f"pretrained has '{part}', but there are sources for {', '.join(LOADERS)} alone")
        name, kind, _ = LOADERS[part]
        if not isinstance(network.get_submodule(name), kind):
            found = type(network.get_submodule(name)).__name__
            raise ValueError(f"pretrained.{part} is for a {kind.__name__}, and the network has a {found}: remove it")


def load_pretrained(network: OCR2, sources: Mapping[str, Pretrained]) -> None:
    """Give parts the weights of their sources.

    Raises:
        ValueError: a source that cannot be read or does not fit, with the argument's path.
    """
    for part, source in sources.items():
        name, _, load = LOADERS[part]
        try:
            load(network.get_submodule(name), source.path, fresh=(TOPOLOGIES, *source.fresh))
        except CheckpointError as error:
            raise ValueError(f"model.pretrained.{part}: {error}") from None


def check_pretrained(sources: Mapping[str, Pretrained]) -> None:
    """Open the sources and read none; raises a ValueError as `load_pretrained` does."""
    for part, source in sources.items():
        try:
            with Checkpoint(source.path):
                pass
        except CheckpointError as error:
            raise ValueError(f"model.pretrained.{part}: {error}") from None


def check_start(network: OCR2, start: StartFrom) -> None:
    """Compare the parts with the source by names and shapes, reading no weights; the network may be without storage.

    Raises:
        ValueError: a source that cannot be read or does not fit, with what it names and both sizes.
    """
    with _source(start) as source:
        _compare(network, source.network, start)


def take_start(network: OCR2, start: StartFrom) -> None:
    """Copy the parts, after all of them are found right; a decoder that no part names is dropped with its source.

    Raises:
        ValueError: as `check_start`; the network is as before.
    """
    with _source(start) as source, torch.no_grad():
        kept = _compare(network, source.network, start)
        state = network.state_dict()
        for key, slot in source.names.items():
            if within(slot.name, start.parts) and slot.name not in kept:
                slot.of(state).copy_(source.read(key))


@dataclass
class _Source:
    network: OCR2  # without storage
    names: Names
    read: Callable[[str], Tensor]


@contextmanager
def _source(start: StartFrom) -> Iterator[_Source]:
    path = Path(start.path)
    try:
        if not path.exists():
            raise CheckpointError(f"{path} is not there: train what it comes from first, or give another path")
        if path.is_dir():
            network = _without_storage(ocr2_node(read_json(path / "config.json")))
            with Checkpoint(path) as checkpoint:
                names = released_names(network)
                yield _Source(network, names, checkpoint.read)
        else:
            content = _lightning(path)
            network = _without_storage(content["hyper_parameters"]["network"])
            state = {name.removeprefix(PREFIX): tensor for name, tensor in content["state_dict"].items()}
            names = {name: Slot(name) for name in network.state_dict()}
            if state.keys() != names.keys():
                raise CheckpointError(f"{path} has adapters, not merged: give the model's folder in its place")
            yield _Source(network, names, state.__getitem__)
    except (CheckpointError, OSError) as error:
        raise ValueError(f"model.start_from: {error}") from None


def _without_storage(node: Mapping[str, Any]) -> OCR2:
    with torch.device("meta"):
        network = build(node)
    if not isinstance(network, OCR2):
        raise CheckpointError(f"it holds a {type(network).__name__} and no OCR2")
    return network


def _lightning(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        for wanted in (content["hyper_parameters"]["network"], content["state_dict"]):
            dict(wanted)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is no checkpoint of an OCR run ({reason[:80]})") from None
    return content


def _compare(network: OCR2, other: OCR2, start: StartFrom) -> set[str]:
    """The names in the parts that keep their values; raises a ValueError where the rest does not fit."""
    ours = {name: tensor for name, tensor in network.state_dict().items() if within(name, start.parts)}
    theirs = {name: tensor for name, tensor in other.state_dict().items() if within(name, start.parts)}
    shapes = {name: (list(theirs[name].shape), list(ours[name].shape)) for name in ours.keys() & theirs.keys()}
    wrong = {name for name, (there, here) in shapes.items() if there != here}
    kept = {name for name in wrong | (ours.keys() ^ theirs.keys()) if within(name, start.fresh)}
    remedy = "give both the same sizes, or name it in model.start_from.fresh"
    if found := [name for name in ours if name in wrong - kept]:
        there, here = shapes[found[0]]
        more = f", and so on for {len(found) - 1:,} more" if len(found) > 1 else ""
        raise ValueError(
            f"model.start_from: {found[0]} is {there} in {start.path}, but {here} in model.network{more}: {remedy}"
        )
    for lacks, what in ((ours.keys() - theirs.keys(), "lacks"), (theirs.keys() - ours.keys(), "has besides")):
        if names := sorted(lacks - kept):
            raise ValueError(f"model.start_from: {start.path} {what} {some(names)}: {remedy}")
    parts = dict(other.named_modules())
    for name, module in network.named_modules():
        for setting in UNSEEN if within(name, start.parts) and name in parts else ():
            there, here = getattr(parts[name], setting, None), getattr(module, setting, None)
            if there != here:
                raise ValueError(
                    f"model.start_from: {name} has {setting} {there} in {start.path}, but {here} in model.network: set "
                    "one to the other"
                )
    return kept


def require_start(network: OCR2, start: StartFrom) -> None:
    """Raise a ValueError for a pattern that names nothing in the network."""
    require_used(start.parts, network.state_dict(), "start_from.parts")
