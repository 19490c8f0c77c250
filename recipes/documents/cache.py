"""Pages on disk, made once: files of fifty, each whole or not there."""

import io
import json
import logging
import os
import zipfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from PIL import Image

from recipes.documents.generate import TOGETHER, Generator, Page
from recipes.documents.options import Contents
from recipes.documents.text import Corpus
from recipes.files import replacing

# files that are worth starting other processes for
WORTH_PROCESSES = 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """A page as it is kept.

    Attributes:
        image: grey.
        markdown: what it is to be read as.
        grounded: the same with labels and boxes.
        record: OmniDocBench's.
    """

    image: Image.Image
    markdown: str
    grounded: str
    record: dict[str, Any]


@dataclass(frozen=True)
class Order:
    """All that makes a generator, to be sent to another process.

    Args:
        path: of the corpus, None for Python's own documentation.
        seed: as `Generator` takes it, and the others.
    """

    path: str | None
    seed: int | str
    width: int
    height: int
    contents: Contents
    mode: str
    degradation: float

    def generator(self) -> Generator:
        """Read the corpus and make the generator; raises ValueError for what they refuse."""
        return Generator(
            Corpus.read(self.path), self.seed, self.width, self.height, self.contents, self.mode, self.degradation
        )


class PageCache:
    """The pages of an order, by number, made and kept when they are first asked for.

    A file's name holds the hash of all that its pages depend on. It appears whole, so that processes that make the same
    one do not spoil each other's; one that cannot be read is named in the log and made anew.

    Args:
        folder: where all orders are kept.
        order: what the pages are.

    Raises:
        ValueError: what the corpus or the generator refuses.
    """

    def __init__(self, folder: str | os.PathLike[str], order: Order) -> None:
        self.order = order
        self._generator: Generator | None = order.generator()
        self.key = self._generator.key
        self.folder = Path(folder) / self.key[:24]

    def __getitem__(self, number: int) -> Stored:
        """Read a page, or make it and its neighbours."""
        path = self._path(number // TOGETHER)
        try:
            return _read(path, number)
        except FileNotFoundError:
            pass
        except (zipfile.BadZipFile, KeyError, OSError, ValueError, EOFError) as error:
            log.warning("%s: cannot be read (%s); made anew", path, error)
        self._make(number // TOGETHER)
        return _read(path, number)

    def fill(self, size: int, workers: int = 0) -> int:
        """Make the files of pages 0 to `size` - 1 that are missing; returns how many were.

        Args:
            size: of the data set.
            workers: processes that make them; 0 for this one.
        """
        missing = [number for number in range(-(-size // TOGETHER)) if not self._path(number).is_file()]
        if missing:
            log.info("%s: making %d pages", self.folder, len(missing) * TOGETHER)
        # a process takes seconds to start, in which this one makes many pages
        if workers < 1 or len(missing) < WORTH_PROCESSES:
            for number in missing:
                self._make(number)
        else:
            # spawned: a fork of a process with threads may hang
            with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (self.folder.parent, self.order)) as pool:
                list(pool.map(_make_one, missing))
        return len(missing)

    def _path(self, number: int) -> Path:
        return self.folder / f"pages-{number:06d}.zip"

    def _make(self, number: int) -> None:
        self._generator = self._generator or self.order.generator()
        numbers = range(number * TOGETHER, (number + 1) * TOGETHER)
        write_pages(self._path(number), numbers, self._generator.pages(numbers))

    def __getstate__(self) -> dict[str, Any]:
        # a corpus is large: a process that needs one reads it
        return self.__dict__ | {"_generator": None}


def write_pages(path: Path, numbers: range, pages: list[Page]) -> None:
    """Put pages into one file, which appears whole or not at all."""
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as file:
        for number, page in zip(numbers, pages, strict=True):
            name, packed = f"{number:08d}", io.BytesIO()
            page.image.save(packed, format="PNG", compress_level=1)
            told = {
                "markdown": page.markdown,
                "grounded": page.grounded,
                "record": page.record(f"{name}.png", number),
            }
            # a fixed date: the same pages are the same bytes
            file.writestr(zipfile.ZipInfo(f"{name}.png"), packed.getvalue())
            file.writestr(zipfile.ZipInfo(f"{name}.json"), json.dumps(told))


def _read(path: Path, number: int) -> Stored:
    # zipfile compares the checksum of what it reads
    with zipfile.ZipFile(path) as file:
        told = json.loads(file.read(f"{number:08d}.json"))
        image = Image.open(io.BytesIO(file.read(f"{number:08d}.png")))
        image.load()
    return Stored(image, told["markdown"], told["grounded"], told["record"])


_here: dict[str, PageCache] = {}


def _begin(folder: Path, order: Order) -> None:
    _here["cache"] = PageCache(folder, order)


def _make_one(number: int) -> None:
    _here["cache"]._make(number)


def default_folder() -> Path:
    """Where pages are kept unless another folder is given: `pages` below the user's cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "architecture-ablation-toolkit" / "pages"
