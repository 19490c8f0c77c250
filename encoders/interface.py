"""The two seams of the vision side: what a visual tokenizer is, and what a vision encoder is."""

from abc import ABC, abstractmethod

from torch import Tensor

from mhc import Described
from mhc.context import Observer


class VisualTokenizer(Described, ABC):
    """Pixels -> visual tokens in raster order.

    Attributes:
        width: d, of a visual token.
        stride: side in pixels of the square that a token stands for; images are divisible by it.
    """

    width: int
    stride: int

    @abstractmethod
    def forward(self, pixels: Tensor, observe: Observer | None = None) -> Tensor:
        """[B, 3, H, W] -> [B, m, d] with m = H W / stride^2, row by row.

        Args:
            pixels: of images of one size.
            observe: looks on in the trunk, where there is one.
        """


class VisionEncoder(Described, ABC):
    """Visual tokens and queries -> what the decoder reads.

    Attributes:
        width: d, of the queries.
        visual_width: of the visual tokens; d unless a class says otherwise.
        output_width: of what comes out.
    """

    width: int
    output_width: int

    @property
    def visual_width(self) -> int:
        """Width of the visual tokens it reads."""
        return self.width

    @abstractmethod
    def forward(
        self, visual: Tensor, queries: Tensor | None, grid: tuple[int, int], observe: Observer | None = None
    ) -> Tensor:
        """[B, m, visual_width] and [B, q, d] -> [B, q, output_width]; without queries [B, m, output_width].

        Args:
            visual: visual tokens in raster order.
            queries: of the view's resolution, or None; an encoder that needs them raises a ValueError.
            grid: (rows, columns) of the visual tokens, rows x columns = m.
            observe: looks on in the trunk, where there is one.
        """
