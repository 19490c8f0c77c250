"""No encoder at all: visual tokens in raster order, straight to the projector."""

from torch import Tensor

from encoders.arguments import require_visual
from encoders.interface import VisionEncoder
from mhc.context import Observer


class RasterEncoder(VisionEncoder):
    """The identity on visual tokens, as in Fuyu and Chameleon (arXiv 2405.09818): no parameters, no queries.

    It is the baseline of every claim about reading order: what the decoder makes of the raster scan alone.

    Args:
        width: d, of the visual tokens.

    Raises:
        ValueError: a width below 1; in forward, queries, or visual tokens of another shape than width and grid say.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.width = self.output_width = width

    def forward(
        self, visual: Tensor, queries: Tensor | None, grid: tuple[int, int], observe: Observer | None = None
    ) -> Tensor:
        """[B, m, d] itself; there is no trunk to look on in."""
        require_visual(self, visual, grid, self.width)
        if queries is not None:
            raise ValueError("RasterEncoder takes no queries: set queries to null, or take an encoder that reads them")
        return visual
