"""What a training step on pages reads."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from encoders.views import ImageBatch, Views

IGNORED = -100  # a label that nothing is asked at, as torch's cross_entropy has it


class PageBatch(NamedTuple):
    """Rows of text around image slots, padded on the right; Lightning moves and converts each tensor.

    Attributes:
        tokens: [B, S].
        labels: [B, S], the token that follows each one; -100 where nothing is asked.
        mask: [B, S], True where a token is real.
        pages: [I, 3, G, G], of the images that fill the slots, row by row; None where no row has any.
        crops: [K, 3, c, c] of all images; None where no image has any.
        crop_counts: of each image.
    """

    tokens: Tensor
    labels: Tensor
    mask: Tensor
    pages: Tensor | None = None
    crops: Tensor | None = None
    crop_counts: tuple[int, ...] = ()

    @property
    def images(self) -> ImageBatch | None:
        """The images together, None where there are none."""
        return None if self.pages is None else ImageBatch(self.pages, self.crops, self.crop_counts)

    @classmethod
    def collate(cls, rows: Sequence[tuple[list[int], int]], images: ImageBatch | None, padding_token: int) -> Self:
        """Pad rows (token numbers, how many at the start are not asked for) to one length.

        Args:
            rows: a row's tokens begin with the prompt, whose tokens are no labels.
            images: of the rows' slots.
            padding_token: fills the rows; it is never asked for.
        """
        length = max(len(tokens) for tokens, _ in rows)
        tokens = torch.full((len(rows), length), padding_token)
        labels = torch.full((len(rows), length), IGNORED)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for row, (numbers, prompt) in enumerate(rows):
            text = torch.tensor(numbers)
            tokens[row, : len(text)], mask[row, : len(text)] = text, True
            # the token before the answer's first is asked for it, the last token of all for nothing
            labels[row, prompt - 1 : len(text) - 1] = text[prompt:]
        found = () if images is None else (images.pages, images.crops, images.crop_counts)
        return cls(tokens, labels, mask, *found)


def empty_images(views: Views, width: int, height: int) -> ImageBatch:
    """The views of one page of width x height pixels, without content, on the default device."""
    columns, rows = views.grid(width, height)
    crops = torch.empty(columns * rows, 3, views.crop_size, views.crop_size) if columns * rows else None
    return ImageBatch(torch.empty(1, 3, views.global_size, views.global_size), crops, (columns * rows,))
