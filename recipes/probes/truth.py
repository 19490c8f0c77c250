"""What a data module knows about its pages: their blocks and the order in which they are read."""

from functools import singledispatch
from pathlib import Path

import numpy as np
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor

from encoders.views import Views
from recipes.data.glyph_pages import GlyphPages
from recipes.data.glyphs import DIGITS, EMPTY, GlyphTask, RankedColumns, ScatteredDigits
from recipes.data.synthetic_pages import SyntheticPages
from recipes.probes.pages import Block, Box, ProbePage, page_of_omnidocbench


@singledispatch
def probe_pages(data: LightningDataModule, count: int) -> tuple[list[ProbePage], Views]:
    """Held-out pages, and the views that they are cut with.

    A data module gives pages with their blocks by a method `probe_pages(count)`, or by a function that is registered
    here; the pages of `probe_batch(count)` of any other are taken from their global views, without blocks.

    Raises:
        ValueError: a batch without pages.
    """
    views = getattr(data, "views", None) or Views()
    if hasattr(data, "probe_pages"):
        return list(data.probe_pages(count)), views
    pages = data.probe_batch(count).pages  # type: ignore[attr-defined]
    if pages is None:
        raise ValueError(f"{type(data).__name__}.probe_batch gives no pages, which QueryOrder looks at")
    views = Views(pages.shape[-1], max_crops=0, mean=views.mean, std=views.std)
    return [ProbePage(f"page {k}", image_of(pixels, views)) for k, pixels in enumerate(pages[:count])], views


@probe_pages.register
def _of_glyphs(data: GlyphPages, count: int) -> tuple[list[ProbePage], Views]:
    """Cells are blocks; columns of cells are the columns that can be exchanged."""
    pages = []
    data.task.prepare()
    for k in range(count):
        index = k % data.validation_pages
        pixels, cells = data.held_out(index)[0], data.held_out_cells(index)
        place = reading_order(data.task, cells)
        boxes = [_cell(number, data.task.rows, data.glyph) for number in range(len(cells))]
        blocks = tuple(
            Block(boxes[number], place.get(number), data.task.alphabet[glyph])
            for number, glyph in enumerate(cells.tolist())
            if glyph != EMPTY
        )
        side = data.views.global_size
        columns = tuple((column[0], 0.0, column[2], float(side)) for column in boxes[: data.task.rows])
        image = image_of(pixels.expand(3, -1, -1), data.views)
        layout = type(data.task).__name__
        pages.append(ProbePage(f"page {k}", image, blocks, "glyphs", layout, columns=columns))
    return pages, data.views


@probe_pages.register
def _of_documents(data: SyntheticPages, count: int) -> tuple[list[ProbePage], Views]:
    """Blocks as the pages' OmniDocBench records have them."""
    pages = []
    for k in range(count):
        kept = data.held_pages.pages[k % len(data.held_pages)]
        found = page_of_omnidocbench(kept.record, Path(), f"page {k}")
        image = kept.image.convert("RGB")
        pages.append(ProbePage(f"page {k}", image, found.blocks, found.page_type, found.layout, kept.markdown))
    return pages, data.views


@singledispatch
def reading_order(task: GlyphTask, cells: Tensor) -> dict[int, int]:
    """Cell -> its place in what is read of a page; cell after cell unless the task says otherwise."""
    return {cell: place for place, cell in enumerate((cells != EMPTY).nonzero().flatten().tolist())}


@reading_order.register
def _of_digits(task: ScatteredDigits, cells: Tensor) -> dict[int, int]:
    read = (cells >= 0) & (cells < len(DIGITS))
    return {cell: place for place, cell in enumerate(read.nonzero().flatten().tolist())}


@reading_order.register
def _of_columns(task: RankedColumns, cells: Tensor) -> dict[int, int]:
    table = cells.view(task.rows, task.rows)
    taken = [column for column in range(task.rows) if table[0, column] != EMPTY]
    taken.sort(key=lambda column: int(table[0, column]))
    rows = range(1, task.rows)
    read = [row * task.rows + column for column in taken for row in rows if table[row, column] != EMPTY]
    return {cell: place for place, cell in enumerate(read)}


def image_of(pixels: Tensor, views: Views) -> Image.Image:
    """Pixels [3, H, W] of a view as an image; what is darker than black or brighter than white is cut."""
    values = (pixels.float().cpu().permute(1, 2, 0).numpy() * views.std + views.mean) * 255
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def _cell(number: int, rows: int, side: int) -> Box:
    row, column = divmod(number, rows)
    return float(column * side), float(row * side), float((column + 1) * side), float((row + 1) * side)
