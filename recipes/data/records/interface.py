"""The seam between data as it lies on a disk and a page with its truth."""

import glob
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image


class Record(NamedTuple):
    """A page and what it is to be read as.

    Attributes:
        image: RGB.
        text: Markdown.
        key: names it for people, the same in every run.
    """

    image: Image.Image
    text: str
    key: str


class RecordError(Exception):
    """A record that gives no page; one sentence that begins with its key."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(" ".join(f"{key}: {reason}".split()))


class Records(ABC):
    """Pages that are read by number, in any order and from any process; what stands where is found out once.

    Attributes:
        faults: what was found broken on the way there and is no record of its own, a sentence each.
        files: that the records come from; their names and sizes tell whether the data is the same.
    """

    faults: Sequence[str] = ()
    files: Sequence[Path] = ()

    @abstractmethod
    def __len__(self) -> int:
        """How many records there are.

        Raises:
            ValueError: nothing where records should be, or something else.
        """

    @abstractmethod
    def key(self, index: int) -> str:
        """The key of a record, which is not read for it."""

    @abstractmethod
    def read(self, index: int) -> Record:
        """Read a record.

        Raises:
            RecordError: it is broken.
            encoders.images.ImageError: its image is.
        """

    def digest(self) -> str:
        """SHA-256 of the number of records and of the files' names and sizes."""
        lines = [str(len(self)), *(f"{path.name} {path.stat().st_size}" for path in self.files)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class Subset(Records):
    """Some of the records.

    Args:
        records: all.
        indices: of those.
    """

    def __init__(self, records: Records, indices: Sequence[int]) -> None:
        self.records, self.indices = records, indices

    def __len__(self) -> int:
        return len(self.indices)

    def key(self, index: int) -> str:
        """As the records have it."""
        return self.records.key(self.indices[index])

    def read(self, index: int) -> Record:
        """As the records do it."""
        return self.records.read(self.indices[index])


def hold_out(keys: Sequence[str], fraction: float) -> set[str]:
    """The keys whose hashes are smallest: a share of them, at least one; another page moves few of the others."""
    count = max(1, round(fraction * len(keys)))
    return set(sorted(keys, key=lambda key: hashlib.sha256(key.encode()).hexdigest())[:count])


def split(records: Records, fraction: float) -> tuple[Subset, Subset]:
    """Records for training, and a share that is held out by the hashes of their keys.

    Raises:
        ValueError: fewer than two records.
    """
    keys = [records.key(index) for index in range(len(records))]
    if len(keys) < 2:
        faults = records.faults
        told = f" ({len(faults)} broken, the first: {faults[0]})" if faults else ""
        raise ValueError(f"holds {len(keys)} page{'s' * (len(keys) != 1)}{told}: training and validation need one each")
    held = hold_out(keys, fraction)
    parts: tuple[list[int], list[int]] = [], []
    for index, key in enumerate(keys):
        parts[key in held].append(index)
    return Subset(records, parts[0]), Subset(records, parts[1])


def find_files(path: str, suffixes: tuple[str, ...]) -> list[Path]:
    """A file, those below a folder or that match a pattern, of some suffixes, sorted by name.

    Raises:
        ValueError: there are none.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    found = place.rglob("*") if place.is_dir() else map(Path, glob.glob(str(place), recursive=True))
    files = sorted(file for file in found if file.name.lower().endswith(suffixes) and file.is_file())
    if not files:
        raise ValueError(
            f"'{path}' holds no {' or '.join(suffixes)}: give a file, a folder, or a pattern of such files"
        )
    return files
