"""Pages with what is known about them: blocks, their boxes and their reading order."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from scipy.stats import spearmanr

from encoders.images import open_image
from recipes.data.records.pairs import IMAGES, TEXT
from recipes.errors import UserError

# left, top, right, bottom
Box = tuple[float, float, float, float]

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Block:
    """A paragraph, title, table, figure, glyph: what the reading order is an order of.

    Attributes:
        box: left, top, right, bottom in pixels of the page's image.
        order: place in the reading order, any numbers that ascend; None for what has none, such as page numbers.
        text: what it reads as.
    """

    box: Box
    order: float | None = None
    text: str = ""


@dataclass(frozen=True)
class ProbePage:
    """A page to probe with.

    Attributes:
        name: in reports, and of its picture.
        image: RGB.
        blocks: may be empty where no truth is known.
        page_type: newspaper, book, ...
        layout: single_column, double_column, ...
        text: the page as it is to be read; empty takes the texts of the blocks in their order.
        columns: boxes in pixels that can be exchanged; empty finds them between the blocks.
    """

    name: str
    image: Image.Image
    blocks: tuple[Block, ...] = ()
    page_type: str = UNKNOWN
    layout: str = UNKNOWN
    text: str = ""
    columns: tuple[Box, ...] = ()

    @property
    def ordered(self) -> list[Block]:
        """The blocks that have a place in the reading order, in that order."""
        return sorted((block for block in self.blocks if block.order is not None), key=lambda block: block.order or 0)

    @property
    def raster(self) -> float:
        """Spearman's correlation of the reading order with that of tops, then lefts; 1 for one block or none."""
        ordered = self.ordered
        if len(ordered) < 2:
            return 1.0
        rows = sorted(range(len(ordered)), key=lambda place: (ordered[place].box[1], ordered[place].box[0]))
        return float(spearmanr(range(len(rows)), rows).statistic)

    @property
    def reading(self) -> str:
        """The page's text."""
        return self.text or "\n\n".join(block.text for block in self.ordered if block.text)


@dataclass(frozen=True)
class PageFile:
    """A page whose image is still on disk; its fields are those of `ProbePage`."""

    path: Path
    blocks: tuple[Block, ...] = ()
    page_type: str = UNKNOWN
    layout: str = UNKNOWN
    text: str = ""

    def open(self) -> ProbePage:
        """Read the image.

        Raises:
            ImageError: it cannot be read.
        """
        image = open_image(self.path)
        return ProbePage(self.path.stem, image, self.blocks, self.page_type, self.layout, self.text)


def find_pages(path: Path, images: Path | None = None) -> list[PageFile]:
    """The pages of an OmniDocBench ground truth, or the images of a folder with their Markdown where it is beside them.

    Args:
        path: a JSON file, or a folder.
        images: where the images of the ground truth are; None for its own folder, or `images` in there.

    Raises:
        UserError: nothing there, no images, or a ground truth that is none, with file, page and key.
    """
    files = _of_folder(path) if path.is_dir() else _of_truth(path, images)
    names: set[str] = set()
    for file in files:
        # its picture is named by it
        if file.path.stem in names:
            raise UserError(f"--pages: {path} has two pages that are named {file.path.stem}: rename one")
        names.add(file.path.stem)
    return files


def _of_truth(path: Path, images: Path | None) -> list[PageFile]:
    try:
        pages = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--pages: {path} cannot be read ({error})") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"--pages: {path} is no JSON ({error}); give an OmniDocBench ground truth or a folder"
        ) from None
    if not isinstance(pages, list) or not pages:
        raise UserError(f"--pages: {path} must hold a list of pages as OmniDocBench's ground truth does")
    if images is None:
        images = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
    return [page_of_omnidocbench(page, images, f"{path}: page {number}") for number, page in enumerate(pages)]


def page_of_omnidocbench(page: Mapping[str, Any], images: Path, label: str) -> PageFile:
    """One page of an OmniDocBench ground truth.

    The sizes in `page_info` are not read: some are those of the page before it was turned.

    Args:
        page: its `layout_dets` and `page_info`.
        images: folder of the image.
        label: names the page in messages.

    Raises:
        UserError: a key that is missing or of another kind, by name.
    """
    info = page.get("page_info") if isinstance(page, Mapping) else None
    name = info.get("image_path") if isinstance(info, Mapping) else None
    if not isinstance(name, str) or not name:
        raise UserError(f"{label} has no page_info.image_path, which names its image")
    detections = page.get("layout_dets")
    if not isinstance(detections, Sequence) or isinstance(detections, str):
        raise UserError(f"{label}: layout_dets must be a list of blocks")
    blocks = tuple(_block(found, f"{label}: layout_dets[{k}]") for k, found in enumerate(detections))
    found = info.get("page_attribute") if info else None
    attributes = found if isinstance(found, Mapping) else {}
    return PageFile(
        images / name,
        blocks,
        str(attributes.get("data_source", UNKNOWN)),
        str(attributes.get("layout", UNKNOWN)),
    )


def _block(found: Any, label: str) -> Block:
    polygon = found.get("poly") if isinstance(found, Mapping) else None
    if not isinstance(polygon, Sequence) or len(polygon) != 8 or not all(_is_number(value) for value in polygon):
        raise UserError(f"{label}: poly must be the 8 numbers of four corners")
    box = min(polygon[::2]), min(polygon[1::2]), max(polygon[::2]), max(polygon[1::2])
    order = found.get("order")
    if order is not None and not _is_number(order):
        raise UserError(f"{label}: order must be a number or null, got {order!r}")
    text = next((found[key] for key in ("text", "latex", "html") if isinstance(found.get(key), str)), "")
    return Block(box, None if found.get("ignore") else order, text)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _of_folder(folder: Path) -> list[PageFile]:
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES and path.is_file())
    if not images:
        raise UserError(
            f"--pages: {folder} holds no images; give a folder of page images, or the JSON of an OmniDocBench truth"
        )
    return [PageFile(path, text=_beside(path)) for path in images]


def _beside(image: Path) -> str:
    path = image.with_suffix(TEXT)
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
