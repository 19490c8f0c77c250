"""Tar shards as WebDataset writes them: members of one name and different suffixes are one record."""

import hashlib
import json
import tarfile
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from encoders.images import open_image
from recipes.data.records.interface import Record, RecordError, Records, find_files
from recipes.data.records.pairs import IMAGES
from recipes.files import replace_file

# what a tar ends with
END = bytes(1024)
TEXTS = (".md", ".txt")


class _Sample(NamedTuple):
    """Where a record stands: its name, the image's suffix, and offset and size of image and text in the shard."""

    name: str
    suffix: str
    image: tuple[int, int]
    text: tuple[int, int]


class TarShards(Records):
    """Records of uncompressed tar files, each read from its place alone.

    A member's name is that of its record up to the first dot of its last part; an image and a text of one name that
    follow one another are a record. Of a shard that is cut the records before the cut are read.

    Args:
        path: a shard, a folder, or a pattern.
        texts: suffixes of texts, the first that a record has being its truth.
        index: folder that keeps what stands where in the shards, so that each is looked through once; None looks
            through all of them at every start.
    """

    def __init__(self, path: str, texts: tuple[str, ...] = TEXTS, index: str | None = None) -> None:
        self.path, self.texts = path, tuple(texts)
        self.index = None if index is None else Path(index).expanduser()

    @cached_property
    def files(self) -> list[Path]:
        """The shards."""
        return find_files(self.path, (".tar",))

    @cached_property
    def _found(self) -> tuple[list[tuple[int, _Sample]], list[str]]:
        samples, faults = [], []
        for shard, path in enumerate(self.files):
            found, broken = self._indexed(path)
            samples += [(shard, sample) for sample in found]
            faults += broken
        return samples, faults

    @property
    def faults(self) -> list[str]:
        """Shards that are cut or no tar, and names that lack image or text."""
        return self._found[1]

    def __len__(self) -> int:
        return len(self._found[0])

    def key(self, index: int) -> str:
        """Shard and name."""
        shard, sample = self._found[0][index]
        return f"{self.files[shard].name}/{sample.name}"

    def read(self, index: int) -> Record:
        """Read image and text from their places."""
        shard, sample = self._found[0][index]
        key = self.key(index)
        try:
            with self.files[shard].open("rb") as file:
                image, text = (_read(file, *place) for place in (sample.image, sample.text))
            return Record(open_image(image, name=f"{key}{sample.suffix}"), text.decode("utf-8"), key)
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise RecordError(key, f"cannot be read ({error})") from None

    def _indexed(self, path: Path) -> tuple[list[_Sample], list[str]]:
        """What a shard holds, from the folder of indices where it is of this very shard."""
        state = path.stat()
        stamp = [str(path.resolve()), state.st_size, state.st_mtime_ns, list(self.texts)]
        if self.index is None:
            return _scan(path, self.texts)
        kept = self.index / f"{path.stem}-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}.json"
        try:
            content = json.loads(kept.read_text(encoding="utf-8"))
            if content["stamp"] == stamp:
                return [_sample(*entry) for entry in content["samples"]], content["faults"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # it is made anew, whatever is wrong with it
        samples, faults = _scan(path, self.texts)
        replace_file(kept, json.dumps({"stamp": stamp, "samples": samples, "faults": faults}))
        return samples, faults


def _sample(name: str, suffix: str, image: list[int], text: list[int]) -> _Sample:
    return _Sample(name, suffix, (image[0], image[1]), (text[0], text[1]))


def _read(file: Any, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise EOFError(f"the shard ends after {len(data)} of {size} bytes")
    return data


def _scan(path: Path, texts: tuple[str, ...]) -> tuple[list[_Sample], list[str]]:
    """Samples of a shard by its headers, and what is wrong with it."""
    members: dict[str, dict[str, tuple[int, int]]] = {}
    faults, length = [], path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                folder, slash, last = member.name.rpartition("/")
                name, dot, suffix = last.partition(".")
                if member.offset_data + member.size > length:
                    raise tarfile.ReadError(f"it ends within {member.name}")
                members.setdefault(folder + slash + name, {})[dot + suffix.lower()] = member.offset_data, member.size
        with path.open("rb") as file:
            file.seek(max(length - len(END), 0))
            if file.read() != END:
                raise tarfile.ReadError("it has no end")
    except (tarfile.TarError, OSError) as error:
        faults.append(f"{path}: is no tar, or cut ({error}); {len(members)} records stand before that")
    samples = []
    for name, parts in members.items():
        image = next((suffix for suffix in IMAGES if suffix in parts), None)
        text = next((suffix for suffix in texts if suffix in parts), None)
        if image is None or text is None:
            lacking = "image" if image is None else f"text ({', '.join(texts)})"
            faults.append(f"{path.name}/{name}: has no {lacking}")
        else:
            samples.append(_Sample(name, image, parts[image], parts[text]))
    return samples, faults
