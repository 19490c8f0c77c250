"""Views of a probe page, with its blocks where they are in the view."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from encoders.views import Views
from recipes.probes.pages import Block, Box, ProbePage

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """How a page's pixels lie in a view: view = scale x page + shift, x and y apart.

    Attributes:
        scale: of x and y.
        shift: of x and y, in pixels of the view.
        size: (width, height) of the view.
    """

    scale: tuple[float, float]
    shift: tuple[float, float]
    size: tuple[int, int]

    def into(self, points: Points) -> Points:
        """Points [n, 2] of the page -> of the view."""
        return points * np.array(self.scale) + np.array(self.shift)

    def out_of(self, points: Points) -> Points:
        """Points [n, 2] of the view -> of the page."""
        return (points - np.array(self.shift)) / np.array(self.scale)


@dataclass(frozen=True)
class View:
    """One view of a page.

    Attributes:
        pixels: [3, H, W] as the model reads it.
        frame: where the page lies in it.
        blocks: those of the page that are seen in it, boxes in pixels of the view and cut at its edge.
        number: of the crop; None for the global view.
    """

    pixels: Tensor
    frame: Frame
    blocks: tuple[Block, ...]
    number: int | None = None

    @property
    def ordered(self) -> list[Block]:
        """The blocks that have a place in the reading order, in that order."""
        return sorted((block for block in self.blocks if block.order is not None), key=lambda block: block.order or 0)


def views_of(page: ProbePage, views: Views, crops: bool = False) -> list[View]:
    """The global view, and the crops after it if they are wanted."""
    overview, cut = views(page.image)
    width, height = page.image.size
    side = views.global_size
    # as `Views` rounds: the page keeps its aspect but for that, and is centred
    scaled = [max(1, round(length * side / max(width, height))) for length in (width, height)]
    frame = Frame(
        (scaled[0] / width, scaled[1] / height),
        ((side - scaled[0]) // 2, (side - scaled[1]) // 2),
        (side, side),
    )
    found = [_view(page, overview, frame, None)]
    if crops and len(cut):
        columns, rows = views.grid(width, height)
        side = views.crop_size
        scale = columns * side / width, rows * side / height
        for number, pixels in enumerate(cut):
            row, column = divmod(number, columns)
            found.append(_view(page, pixels, Frame(scale, (-column * side, -row * side), (side, side)), number))
    return found


def _view(page: ProbePage, pixels: Tensor, frame: Frame, number: int | None) -> View:
    blocks = []
    for block in page.blocks:
        corners = frame.into(np.array(block.box, dtype=np.float64).reshape(2, 2))
        (left, top), (right, bottom) = np.clip(corners, 0, np.array(frame.size)).tolist()
        if right > left and bottom > top:
            box: Box = (left, top, right, bottom)
            blocks.append(Block(box, block.order, block.text))
    return View(pixels, frame, tuple(blocks), number)
