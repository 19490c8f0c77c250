"""Made-up pages: a data set is a seed and a size."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

from encoders.processor import FREE_OCR
from recipes.data.page_data import PageData, Source
from recipes.data.records.interface import Record, Records, Subset
from recipes.documents.cache import Order, PageCache, default_folder
from recipes.documents.options import Contents
from recipes.documents.tokenizer import byte_tokenizer, write_tokenizer


class SyntheticDocuments(Records):
    """Made-up pages as records, for `PageMixture` as well; each is made when it is first read, and kept.

    Args:
        size: pages.
        document_seed: which pages; a whole number, or another name.
        width: of a page, in pixels.
        height: of a page, in pixels.
        mode: one of `recipes.documents.MODES`.
        contents: what stands on a page; None is the defaults.
        degradation: strength of what is done to the image, 0 to 1.
        grounding: whether the text has labels and boxes.
        path: of the text that words are taken from; None is Python's own documentation and standard library.
        cache: folder that pages are kept in; None is one below the user's cache.

    Raises:
        ValueError: a size below 1; when it is first used, what `recipes.documents.Generator` refuses.
    """

    def __init__(
        self,
        size: int,
        document_seed: int | str = 0,
        width: int = 256,
        height: int = 320,
        mode: str = "prose",
        contents: Contents | None = None,
        degradation: float = 0.0,
        grounding: bool = False,
        path: str | None = None,
        cache: str | None = None,
    ) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1 page, got {size}")
        self.size, self.grounding, self.cache = size, grounding, cache
        self.order = Order(path, document_seed, width, height, contents or Contents(), mode, degradation)

    @cached_property
    def pages(self) -> PageCache:
        """Where they are kept."""
        return PageCache(self.cache or default_folder(), self.order)

    def __len__(self) -> int:
        return self.size

    def key(self, index: int) -> str:
        """Seed and number."""
        return f"{self.order.seed}/{index:08d}"

    def read(self, index: int) -> Record:
        """Read a page, or make it."""
        page = self.pages[index]
        return Record(page.image.convert("RGB"), page.grounded if self.grounding else page.markdown, self.key(index))

    def digest(self) -> str:
        """SHA-256 of all that the pages depend on, and of their number."""
        return hashlib.sha256(f"{self.pages.key} {self.size} {self.grounding}".encode()).hexdigest()


class SyntheticPages(PageData):
    """Made-up pages; those for validation are of another seed, and are the same whatever the training's size.

    They are made before the training begins, and once: `document_seed` says which, `seed` in what order.

    Args:
        size: pages for training.
        tokenizer: folder with a checkpoint's tokenizer.json; None makes one of single bytes, of 271 tokens.
        width: of a page, in pixels.
        height: of a page, in pixels.
        mode: one of `recipes.documents.MODES`.
        contents: what stands on a page; None is the defaults.
        degradation: strength of what is done to the image, 0 to 1.
        grounding: whether the answers have labels and boxes.
        document_seed: which pages.
        path: of the text that words are taken from; None is Python's own documentation and standard library.
        cache: folder that pages are kept in; None is one below the user's cache.
        prompt: text before the answer, with one `<image>`.
        options: of `PageData`.

    Raises:
        ValueError: a size below 2, what `PageData` refuses, and on `setup`, what `recipes.documents.Generator` refuses.
    """

    place = "data"

    def __init__(
        self,
        size: int,
        tokenizer: str | None = None,
        width: int = 256,
        height: int = 320,
        mode: str = "prose",
        contents: Contents | None = None,
        degradation: float = 0.0,
        grounding: bool = False,
        document_seed: int = 0,
        path: str | None = None,
        cache: str | None = None,
        prompt: str = FREE_OCR,
        **options: Any,
    ) -> None:
        folder = Path(cache or default_folder())
        self._own_tokenizer = folder / "byte_tokenizer" if tokenizer is None else None
        # what is held out is of another seed, and not a share
        super().__init__(str(self._own_tokenizer or tokenizer), prompt=prompt, validation_fraction=0.5, **options)
        if size < 2:
            raise ValueError(f"data.size must be at least 2 pages, got {size}")
        drawn = (width, height, mode, contents, degradation, grounding, path, str(folder))
        held = self.validation_batches * self.batch_size
        self.train_pages = SyntheticDocuments(size, document_seed, *drawn)
        self.held_pages = SyntheticDocuments(held, f"validation {document_seed}", *drawn)
        self._sources = {"train": Source(self.train_pages)}

    def sources(self) -> dict[str, Source]:
        """The training pages."""
        return self._sources

    def prepare_data(self) -> None:
        """Make all pages that are not there yet, with `workers` processes."""
        self._write_tokenizer()
        for records in (self.train_pages, self.held_pages):
            records.pages.fill(len(records), self.workers)

    def setup(self, stage: str | None = None) -> None:
        """Read the tokenizer and the words, once.

        Raises:
            ValueError: words, pages or tokenizer that cannot be had.
        """
        if self.processor is not None:
            return
        self._write_tokenizer()
        super().setup(stage)
        self.train = [Subset(self.train_pages, range(len(self.train_pages)))]
        self.validation = [Subset(self.held_pages, range(len(self.held_pages)))]
        both = self.train_pages.digest() + self.held_pages.digest()
        del self._summary["sources"]
        self._summary |= {
            "pages": len(self.train_pages) + len(self.held_pages),
            "train_pages": len(self.train_pages),
            "validation_pages": len(self.held_pages),
            "pages_kept_in": str(self.train_pages.pages.folder),
            "sha256": hashlib.sha256(both.encode()).hexdigest(),
        }

    def _write_tokenizer(self) -> None:
        if self._own_tokenizer is not None and not (self._own_tokenizer / "tokenizer.json").is_file():
            write_tokenizer(self._own_tokenizer, byte_tokenizer())
