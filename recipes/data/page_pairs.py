"""Pages in a folder: an image and, beside it, the Markdown that it is to be read as."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from encoders.images import ImageError, open_image
from encoders.processor import IMAGE, OCR2Processor
from encoders.views import ImageBatch
from recipes.data.page_batch import PageBatch

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".ppm", ".jp2", ".avif")
TEXT = ".md"
# below so many records a share says nothing
FEWEST = 20

# a row's tokens, how many of them are its prompt, page and crops
Record = tuple[list[int], int, tuple[Tensor, Tensor]]

log = logging.getLogger(__name__)


def find_pages(folder: Path) -> tuple[list[Path], list[Path]]:
    """Images below a folder that have their Markdown beside them, and those that have none, sorted by name.

    Raises:
        ValueError: no folder, or no image in it.
    """
    if not folder.is_dir():
        raise ValueError(f"data.path '{folder}' is no folder: give one with pages as page.png and page.md")
    images = sorted(
        (path for path in folder.rglob("*") if path.suffix.lower() in IMAGES and path.is_file()),
        key=lambda path: path.relative_to(folder).as_posix(),
    )
    if not images:
        raise ValueError(f"data.path '{folder}' holds no images: give a folder with pages as page.png and page.md")
    paired = [path for path in images if path.with_suffix(TEXT).is_file()]
    return paired, [path for path in images if not path.with_suffix(TEXT).is_file()]


def hold_out(names: Sequence[str], fraction: float) -> set[str]:
    """The names whose hashes are smallest: a share of them, at least one; another page moves few of the others."""
    count = max(1, round(fraction * len(names)))
    return set(sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:count])


class Pages(Dataset[PageBatch]):
    """Records as a `PageBatch`, a batch of indices at a time.

    A record that cannot be read is logged, counted, and replaced by the next one that can.

    Args:
        files: images, their Markdown beside them.
        processor: text and views of a page.
        prompt: text before the answer, with one `<image>`.
        length: S, most tokens of a row; a longer answer is cut.
        max_broken: share of the records read so far that may be broken.
    """

    def __init__(
        self, files: Sequence[Path], processor: OCR2Processor, prompt: str, length: int, max_broken: float
    ) -> None:
        self.files, self.processor, self.length, self.max_broken = list(files), processor, length, max_broken
        self.prompt = processor.encode(prompt)
        self.seen, self.broken = 0, 0

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> PageBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> PageBatch:
        rows, views = [], []
        for index in indices:
            tokens, prompt, cut = self._readable(index)
            rows.append((tokens, prompt))
            views.append(cut)
        return PageBatch.collate(rows, ImageBatch.collate(views), self.processor.padding_token)

    def _readable(self, index: int) -> Record:
        for step in range(len(self.files)):
            path = self.files[(index + step) % len(self.files)]
            self.seen += 1
            try:
                return self._read(path)
            except (ImageError, _BrokenError) as error:
                self.broken += 1
                log.warning("%s; skipped, %d of %d records so far", error, self.broken, self.seen)
                if self.broken > self.max_broken * max(self.seen, FEWEST):
                    raise ValueError(
                        f"data.path: {self.broken} of {self.seen} pages cannot be read, the last one {error}: mend "
                        f"them, or raise data.max_broken above {self.max_broken}"
                    ) from None
        raise ValueError(f"data.path: none of its {len(self.files)} pages can be read; the log names each")

    def _read(self, path: Path) -> Record:
        beside = path.with_suffix(TEXT)
        try:
            answer = self.processor.encode(beside.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise _BrokenError(f"{beside}: cannot be read ({error})") from None
        if not answer:
            raise _BrokenError(f"{beside}: is empty")
        if self.processor.image_token in answer:
            raise _BrokenError(f"{beside}: holds {IMAGE}, which stands for an image")
        page, crops = self.processor.views(open_image(path))
        begin = [self.processor.begin_token, *self.processor.expand(self.prompt, [len(crops)])]
        if len(begin) >= self.length:
            raise ValueError(
                f"data.sequence_length is {self.length}, but {path.name} with its prompt takes {len(begin)} tokens: "
                "raise it, or lower data.views.max_crops"
            )
        tokens = [*begin, *answer, self.processor.end_token]
        return tokens[: self.length], len(begin), (page, crops)


class _BrokenError(Exception):
    """A record that holds no page."""
