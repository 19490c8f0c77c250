"""Views of a page: the whole page as one square, and crops in a grid (DeepSeek-OCR 2, arXiv 2601.20552)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Views:
    """An image -> its page [3, G, G] and its crops [k, 3, c, c], row by row.

    The page is the image resized until its longer side is G and centred on grey. The crops are the image resized
    straight to columns x rows squares of side c, without regard to its aspect ratio. Bicubic, in 8 bits; then
    (value / 255 - mean) / std. An image no larger than a crop has none: its page is enough.

    Args:
        global_size: G, in pixels.
        crop_size: c, in pixels.
        min_crops: the fewest crops of an image that has any.
        max_crops: the most; more show small print (newspapers), 0 makes pages only.
        fill: grey beside the page, 0 to 255.
        mean: taken off.
        std: divided by.

    Raises:
        ValueError: a size below 1, bounds that leave no grid, a fill that is no grey, or a std that is not positive.
    """

    global_size: int = 1024
    crop_size: int = 768
    min_crops: int = 2
    max_crops: int = 6
    fill: int = 127
    mean: float = 0.5
    std: float = 0.5

    def __post_init__(self) -> None:
        if self.global_size < 1 or self.crop_size < 1:
            raise ValueError(
                f"global_size and crop_size must be at least 1 pixel, got {self.global_size} and {self.crop_size}"
            )
        if self.max_crops != 0 and not 1 <= self.min_crops <= self.max_crops:
            raise ValueError(
                f"min_crops must be from 1 to max_crops, got {self.min_crops} and {self.max_crops}; max_crops=0 turns "
                "crops off"
            )
        if not 0 <= self.fill <= 255:
            raise ValueError(f"fill must be a grey from 0 to 255, got {self.fill}")
        if not self.std > 0:
            raise ValueError(f"std must be positive, got {self.std}")

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """(columns, rows) of the crops of an image, (0, 0) where it has none.

        The grid of the closest aspect ratio; among grids that are equally close the largest that the image fills by
        more than half, or else the smallest.

        Raises:
            ValueError: an image without pixels.
        """
        if width < 1 or height < 1:
            raise ValueError(f"an image of {width} x {height} pixels has nothing to see")
        if self.max_crops == 0 or max(width, height) <= self.crop_size:
            return 0, 0
        best, closest = (0, 0), math.inf
        for columns, rows in self._grids():
            distance = abs(width / height - columns / rows)
            filled = width * height > 0.5 * self.crop_size**2 * columns * rows
            if distance < closest or (distance == closest and filled):
                best, closest = (columns, rows), distance
        return best

    def _grids(self) -> list[tuple[int, int]]:
        counts = range(self.min_crops, self.max_crops + 1)
        return [(columns, n // columns) for n in counts for columns in range(1, n + 1) if n % columns == 0]

    def __call__(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        """Cut an RGB image into page [3, G, G] and crops [k, 3, c, c], fp32.

        Raises:
            ValueError: an image of another mode or without pixels.
        """
        if image.mode != "RGB":
            raise ValueError(
                f"views are cut from RGB images, got mode {image.mode}; encoders.images.open_image gives RGB"
            )
        columns, rows = self.grid(*image.size)
        side = self.crop_size
        crops = torch.empty(0, 3, side, side)
        if columns:
            pixels = self._pixels(image.resize((columns * side, rows * side), Image.Resampling.BICUBIC))
            crops = pixels.view(3, rows, side, columns, side).permute(1, 3, 0, 2, 4).reshape(-1, 3, side, side)
        return self._pixels(self._page(image)), crops

    def _page(self, image: Image.Image) -> Image.Image:
        # rounding as transformers does it, half to even; a line one pixel wide stays one
        scale = self.global_size / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        page = Image.new("RGB", (self.global_size, self.global_size), (self.fill,) * 3)
        corner = (self.global_size - width) // 2, (self.global_size - height) // 2
        page.paste(image.resize((width, height), Image.Resampling.BICUBIC), corner)
        return page

    def _pixels(self, image: Image.Image) -> Tensor:
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return values.float().div_(255).sub_(self.mean).div_(self.std).contiguous()


@dataclass(frozen=True)
class ImageBatch:
    """The views of several images: all pages, and all crops one image after the other.

    Args:
        pages: [I, 3, G, G].
        crops: [K, 3, c, c]; None where no image has any.
        crop_counts: of each image; their sum is K.

    Raises:
        ValueError: shapes or counts that do not belong together.
    """

    pages: Tensor
    crops: Tensor | None
    crop_counts: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, views in (("pages", self.pages), ("crops", self.crops)):
            if views is not None and (views.dim() != 4 or views.shape[1] != 3):
                raise ValueError(f"{name} must be [number, 3, height, width], got {list(views.shape)}")
        if len(self.crop_counts) != len(self.pages):
            raise ValueError(f"crop_counts has {len(self.crop_counts)} entries for {len(self.pages)} pages")
        if any(count < 0 for count in self.crop_counts):
            raise ValueError(f"crop_counts must not be negative, got {list(self.crop_counts)}")
        crops = 0 if self.crops is None else len(self.crops)
        if sum(self.crop_counts) != crops:
            raise ValueError(f"crop_counts add up to {sum(self.crop_counts)}, but there are {crops} crops")

    @classmethod
    def collate(cls, images: Sequence[tuple[Tensor, Tensor]]) -> Self:
        """Put the (page, crops) of several images together; crops may be [0, 3, c, c].

        Raises:
            ValueError: no images, or views of different sizes.
        """
        if not images:
            raise ValueError("a batch needs at least one image; text alone has images=None")
        pages, crops = zip(*images, strict=True)
        for name, views in (("pages", pages), ("crops", crops)):
            shapes = sorted({tuple(view.shape[-3:]) for view in views})
            if len(shapes) > 1:
                sizes = ", ".join(map(str, shapes))
                raise ValueError(f"the {name} of a batch must have one size, got {sizes}; cut all with the same Views")
        counts = tuple(len(views) for views in crops)
        return cls(torch.stack(pages), torch.cat(crops) if sum(counts) else None, counts)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pages)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move to a device or another precision; what is already there stays as it is."""
        crops = None if self.crops is None else self.crops.to(device=device, dtype=dtype)
        return replace(self, pages=self.pages.to(device=device, dtype=dtype), crops=crops)

    def pin_memory(self) -> Self:
        """Move to page-locked memory, which copies faster to a GPU; torch's data loader asks for it."""
        return replace(
            self, pages=self.pages.pin_memory(), crops=None if self.crops is None else self.crops.pin_memory()
        )
