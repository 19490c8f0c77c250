"""What a training step on pages reads."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from encoders.views import ImageBatch, Views

IGNORED = -100  # a label that nothing is asked at, as torch's cross_entropy has it

# a sample's tokens, and how many of them at the start are its prompt
Sample = tuple[list[int], int]


class PageBatch(NamedTuple):
    """Rows of text around image slots, padded on the right; Lightning moves and converts each tensor.

    Attributes:
        tokens: [B, S].
        labels: [B, S], the token that follows each one; -100 where nothing is asked.
        mask: [B, S], True where a token is real.
        pages: [I, 3, G, G], of the images that fill the slots, row by row; None where no row has any.
        crops: [K, 3, c, c] of all images; None where no image has any.
        crop_counts: of each image.
        documents: [B, S], number of the sample in its row that a token belongs to, -1 for padding; None where a row
            is one sample.
        deciding: [B, S], True where the token that is asked for follows from the order in which the page is to be read,
            and not from what was read before; None where that is not known.
    """

    tokens: Tensor
    labels: Tensor
    mask: Tensor
    pages: Tensor | None = None
    crops: Tensor | None = None
    crop_counts: tuple[int, ...] = ()
    documents: Tensor | None = None
    deciding: Tensor | None = None

    @property
    def images(self) -> ImageBatch | None:
        """The images together, None where there are none."""
        return None if self.pages is None else ImageBatch(self.pages, self.crops, self.crop_counts)

    def filled(self, views: Views) -> Self:
        """Give the batch with no pages or crops as empty tensors, where it has none and `views` makes some.

        Processes that share weights have to run the same modules, whichever of their pages have crops.
        """

        def none(side: int) -> Tensor:
            return torch.empty(0, 3, side, side, device=self.tokens.device)

        pages = none(views.global_size) if self.pages is None else self.pages
        crops = none(views.crop_size) if self.crops is None and views.max_crops else self.crops
        return self._replace(pages=pages, crops=crops)

    @property
    def positions(self) -> Tensor | None:
        """[B, S], of the tokens in their samples, each from 0; None where a row is one sample."""
        if self.documents is None:
            return None
        places = torch.arange(self.documents.shape[1], device=self.documents.device).expand_as(self.documents)
        begins = torch.ones_like(self.documents, dtype=torch.bool)
        begins[:, 1:] = self.documents[:, 1:] != self.documents[:, :-1]
        return places - torch.where(begins, places, 0).cummax(1).values

    @classmethod
    def collate(cls, rows: Sequence[Sample], images: ImageBatch | None, padding_token: int) -> Self:
        """Pad samples, each a row of its own, to one length.

        Args:
            rows: (token numbers, how many at the start are the prompt's, which are no labels).
            images: of the rows' slots.
            padding_token: fills the rows; it is never asked for.
        """
        return cls.collate_packed([[row] for row in rows], images, padding_token)._replace(documents=None)

    @classmethod
    def collate_packed(cls, rows: Sequence[Sequence[Sample]], images: ImageBatch | None, padding_token: int) -> Self:
        """Pad rows of several samples each to one length; see `collate`, and `documents` for what tells them apart."""
        shape = len(rows), max(sum(len(numbers) for numbers, _ in row) for row in rows)
        tokens, labels = torch.full(shape, padding_token), torch.full(shape, IGNORED)
        documents = torch.full(shape, -1)
        for number, row in enumerate(rows):
            begin = 0
            for document, (numbers, prompt) in enumerate(row):
                text, end = torch.tensor(numbers), begin + len(numbers)
                tokens[number, begin:end], documents[number, begin:end] = text, document
                # the token before the answer's first is asked for it, a sample's last token for nothing
                labels[number, begin + prompt - 1 : end - 1] = text[prompt:]
                begin = end
        found = (None, None, ()) if images is None else (images.pages, images.crops, images.crop_counts)
        return cls(tokens, labels, documents >= 0, *found, documents)


def empty_images(views: Views, width: int, height: int) -> ImageBatch:
    """The views of one page of width x height pixels, without content, on the default device."""
    columns, rows = views.grid(width, height)
    crops = torch.empty(columns * rows, 3, views.crop_size, views.crop_size) if columns * rows else None
    return ImageBatch(torch.empty(1, 3, views.global_size, views.global_size), crops, (columns * rows,))
