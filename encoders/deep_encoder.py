"""Views of a page -> what the decoder reads of it: tokenizer, encoder, projector, packing."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from encoders.interface import VisionEncoder, VisualTokenizer
from encoders.query_bank import QueryBank
from encoders.views import ImageBatch
from mhc import Described
from mhc.context import Observer


class DeepEncoder(Described):
    """Every view through tokenizer, encoder and one linear layer; an image is [crops, page, separator].

    Crops are in raster order, each with the queries of its size (arXiv 2601.20552, section 3). All pages of a batch run
    together, and so do all crops, however many an image has.

    Args:
        tokenizer: pixels -> visual tokens.
        encoder: visual tokens and queries -> features.
        output_width: D, of the decoder.
        queries: the query bank; None for encoders that take none.

    Raises:
        ValueError: parts of different widths.
    """

    def __init__(
        self,
        tokenizer: VisualTokenizer,
        encoder: VisionEncoder,
        output_width: int,
        queries: QueryBank | None = None,
    ) -> None:
        super().__init__()
        if tokenizer.width != encoder.visual_width:
            raise ValueError(
                f"the tokenizer gives visual tokens of width {tokenizer.width}, but {type(encoder).__name__} reads "
                f"{encoder.visual_width}: set one to the other"
            )
        if queries is not None and queries.width != encoder.width:
            raise ValueError(
                f"the query bank has width {queries.width}, but {type(encoder).__name__} has {encoder.width}: set one "
                "to the other"
            )
        self.tokenizer, self.encoder, self.queries = tokenizer, encoder, queries
        self.output_width = output_width
        self.projector = nn.Linear(encoder.output_width, output_width)
        self.separator = nn.Parameter(torch.empty(output_width))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the projector to normal values of std 0.02 without bias, the separator to those of std 1 / sqrt(D)."""
        nn.init.normal_(self.projector.weight, std=0.02)
        nn.init.zeros_(self.projector.bias)
        nn.init.normal_(self.separator, std=self.output_width**-0.5)

    def encode(self, views: Tensor, observe: Observer | None = None) -> Tensor:
        """Views of one size [B, 3, H, W] -> features [B, q, D]."""
        height, width = views.shape[-2:]
        visual = self.tokenizer(views.to(self.projector.weight.dtype), observe)
        queries = None
        if self.queries is not None:
            queries = self.queries((height, width)).expand(len(views), -1, -1)
            # under autocast, where visual tokens are bf16, their own dtype keeps the streams in fp32; without it fixed
            # ones, which FSDP2 leaves as they are, follow the weights
            if views.is_meta or not torch.is_autocast_enabled(views.device.type):
                queries = queries.to(visual.dtype)
        grid = height // self.tokenizer.stride, width // self.tokenizer.stride
        return self.projector(self.encoder(visual, queries, grid, observe))

    def forward(self, images: ImageBatch, observe: Observer | None = None) -> Tensor:
        """Features of all images, one after the other: [sum of their lengths, D]; see `lengths`."""
        pages = self.encode(images.pages, observe)
        parts = [pages.flatten(0, 1), self.separator.to(pages.dtype)[None]]
        per_crop = 0
        # none at all too, where they are given as an empty batch: processes that share weights run the same modules
        if images.crops is not None:
            crops = self.encode(images.crops, observe)
            parts.append(crops.flatten(0, 1))
            per_crop = crops.shape[1]
        order = packing(images.crop_counts, pages.shape[1], per_crop)
        return torch.cat(parts)[order.to(pages.device)]

    def tokens_per_view(self, height: int, width: int) -> int:
        """How many features a view of this size gives: the bank's count, or one a visual token without a bank."""
        if self.queries is not None:
            return self.queries.count((height, width))
        return (height // self.tokenizer.stride) * (width // self.tokenizer.stride)

    def lengths(self, images: ImageBatch) -> list[int]:
        """How many features each image has: crops, page, separator."""
        page = self.tokens_per_view(*images.pages.shape[-2:])
        crop = 0 if images.crops is None else self.tokens_per_view(*images.crops.shape[-2:])
        return [count * crop + page + 1 for count in images.crop_counts]


def packing(crop_counts: Sequence[int], page: int, crop: int) -> Tensor:
    """Where each image's [crops, page, separator] stand in [all pages, the separator, all crops], as one index.

    Args:
        crop_counts: of each image.
        page: features of a page.
        crop: features of a crop.
    """
    separator = len(crop_counts) * page
    parts, first_crop = [], separator + 1
    for image, count in enumerate(crop_counts):
        parts += [
            torch.arange(first_crop, first_crop + count * crop),
            torch.arange(image * page, (image + 1) * page),
            torch.tensor([separator]),
        ]
        first_crop += count * crop
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
