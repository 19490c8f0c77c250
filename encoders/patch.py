"""The plainest visual tokenizer: one convolution."""

import torch
from torch import Tensor, nn

from encoders.interface import VisualTokenizer
from encoders.pixels import grid_of
from encoders.positions import resize_grid
from mhc.context import Observer


class PatchTokenizer(VisualTokenizer):
    """W patch + b for every square of pixels, as Fuyu does, with learned positions if wanted (arXiv 2010.11929, eq. 1).

    | parameter | start |
    |---|---|
    | convolution | torch's |
    | positions | normal, std 0.02 |

    Args:
        width: d, of a visual token.
        patch: side of a patch in pixels, which is the stride.
        channels: of the pixels.
        positions: side of the grid of learned positions, interpolated for other grids; None for no positions.

    Raises:
        ValueError: a size below 1; in forward, pixels that are not [B, channels, H, W] with sides divisible by `patch`.
    """

    def __init__(self, *, width: int, patch: int, channels: int = 3, positions: int | None = None) -> None:
        super().__init__()
        sizes = {"width": width, "patch": patch, "channels": channels, "positions": positions}
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.width, self.stride, self.channels = width, patch, channels
        self.patch = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions: nn.Parameter | None = None
        if positions is not None:
            self.positions = nn.Parameter(torch.empty(1, positions, positions, width))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the positions to the class's table."""
        if self.positions is not None:
            nn.init.normal_(self.positions, std=0.02)

    def forward(self, pixels: Tensor, observe: Observer | None = None) -> Tensor:
        """[B, channels, H, W] -> [B, m, d] with m = H W / patch^2, row by row; nothing to look on at."""
        grid = grid_of(self, pixels, self.stride, self.channels)
        x = self.patch(pixels).movedim(1, -1)
        if self.positions is not None:
            x = x + resize_grid(self.positions, grid)
        return x.flatten(1, 2)
