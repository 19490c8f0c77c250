"""OmniDocBench's ground truth as training data: its pages, and their blocks in reading order as Markdown."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from encoders.images import open_image
from recipes.data.records.interface import Record, RecordError, Records
from recipes.evaluation.truth import FORMULA, Block, Page, PageError


class OmniDocBench(Records):
    """Pages of a ground-truth file and the images of a folder.

    What has no place in the reading order is left out of the Markdown: headers, footers, page numbers, figures. Tables
    are HTML, formulas LaTeX between $$, titles of one level, and texts cut by a column are joined.

    Args:
        path: the JSON file.
        images: folder of the images; None is `images` beside the file.
    """

    def __init__(self, path: str, images: str | None = None) -> None:
        self.path = Path(path).expanduser()
        self.images = self.path.parent / "images" if images is None else Path(images).expanduser()
        self.files = [self.path]

    @cached_property
    def _found(self) -> tuple[list[tuple[Path, Mapping[str, Any]]], list[str]]:
        try:
            entries = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"'{self.path}' cannot be read as JSON ({error}): give OmniDocBench's ground truth"
            ) from None
        if not isinstance(entries, list):
            raise ValueError(f"'{self.path}' is no list of pages: give OmniDocBench's ground truth")
        pages, faults = [], []
        for number, entry in enumerate(entries):
            try:
                image = self.images / entry["page_info"]["image_path"].replace("\\", "/").rpartition("/")[2]
            except (KeyError, TypeError, AttributeError):
                faults.append(f"{self.path} entry {number}: has no page_info.image_path")
                continue
            if image.is_file():
                pages.append((image, entry))
            else:
                faults.append(f"{image}: is missing, and {self.path.name} entry {number} has its truth")
        return pages, faults

    @property
    def faults(self) -> list[str]:
        """Entries without an image."""
        return self._found[1]

    def __len__(self) -> int:
        return len(self._found[0])

    def key(self, index: int) -> str:
        """Name of the image."""
        return self._found[0][index][0].name

    def read(self, index: int) -> Record:
        """Read the image, and put the blocks together."""
        path, entry = self._found[0][index]
        try:
            running, tables = Page(path.name, {}, entry).blocks()
        except PageError as error:
            raise RecordError(path.name, str(error)) from None
        ordered = sorted((block for block in running + tables if block.order), key=lambda block: block.order or 0)
        return Record(open_image(path), "\n\n".join(map(_markdown, ordered)), path.name)


def _markdown(block: Block) -> str:
    text = block.content.strip()
    if block.category == "title":
        # some have their mark already
        return text if text.startswith("#") else f"# {text}"
    if block.category == FORMULA and not text.startswith(("$$", "\\[")):
        return f"$$\n{text}\n$$"
    return text
