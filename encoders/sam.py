"""SAM's vision transformer and a convolutional compressor as visual tokenizer."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from encoders.interface import VisualTokenizer
from encoders.layer_norm_2d import LayerNorm2d
from encoders.pixels import grid_of
from encoders.positions import resize_grid
from encoders.window_attention import WindowAttention
from mhc import FeedForward, Residual, TopologyFactory, Trunk
from mhc.context import Context, Observer
from mhc.initialisation import initialise
from mhc.recompute import Recompute


class SAMTokenizer(VisualTokenizer):
    """Patches, ViT with attention in windows, neck, compressor (SAM, arXiv 2304.02643; arXiv 2601.20552, section 3).

    The defaults are DeepSeek-OCR 2's: ViT-B, and a visual token for 64 x 64 pixels. Images may have any sides that the
    stride divides; positions are interpolated for those that are not `image_size`.

    | parameter | start |
    |---|---|
    | positions | normal, std 0.02 |
    | trunk | `mhc.initialisation.initialise`, relative positions 0 |
    | convolutions | torch's |

    Args:
        width: of the trunk.
        depth: blocks; each is an attention and a feed-forward sublayer.
        heads: of the attention.
        hidden: of the feed-forward.
        window: side of a window in patches.
        global_blocks: blocks whose attention is over the whole grid.
        image_size: side in pixels of the images that positions are learned on.
        patch: side of a patch in pixels.
        neck: channels of the neck.
        compressor: channels behind each convolution of stride 2; none for the neck's own output.
        topology: (width, sublayer index) -> ResidualTopology; None for the plain residual.
        recompute: of the trunk: None, "auto" or every how many sublayers the streams are kept.

    Raises:
        ValueError: a size below 1, a global block that does not exist, an `image_size` of broken patches, or what the
            sublayers refuse; in forward, pixels that are not [B, 3, H, W] with sides divisible by `stride`.
    """

    def __init__(
        self,
        *,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        window: int = 14,
        global_blocks: Sequence[int] = (2, 5, 8, 11),
        image_size: int = 1024,
        patch: int = 16,
        neck: int = 256,
        compressor: Sequence[int] = (512, 896),
        topology: TopologyFactory | None = None,
        recompute: Recompute = None,
    ) -> None:
        super().__init__()
        sizes = {"width": width, "depth": depth, "window": window, "patch": patch, "neck": neck}
        for name, size in (*sizes.items(), *(("compressor", channels) for channels in compressor)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if image_size < patch or image_size % patch:
            raise ValueError(f"image_size must be divisible by patch, got {image_size} and {patch}")
        if not all(0 <= block < depth for block in global_blocks):
            raise ValueError(f"global_blocks must be from 0 to depth - 1 = {depth - 1}, got {tuple(global_blocks)}")
        channels = (neck, *compressor)
        self.depth, self.width, self.stride = depth, channels[-1], patch * 2 ** len(compressor)
        side = image_size // patch
        self.patch = nn.Conv2d(3, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.empty(1, side, side, width))
        norm = partial(nn.LayerNorm, eps=1e-6)
        sublayers: list[nn.Module] = []
        for block in range(depth):
            everywhere = block in global_blocks
            where = {"window": 0 if everywhere else window, "side": side if everywhere else window}
            sublayers += [
                WindowAttention(width, heads=heads, norm=norm, **where),
                FeedForward(width, hidden=hidden, bias=True, norm=norm),
            ]
        topology = topology or Residual
        self.trunk = Trunk(sublayers, (topology(width, index) for index in range(len(sublayers))), recompute=recompute)
        self.neck = nn.Sequential(
            nn.Conv2d(width, neck, 1, bias=False),
            LayerNorm2d(neck),
            nn.Conv2d(neck, neck, 3, padding=1, bias=False),
            LayerNorm2d(neck),
        )
        self.compressor = nn.Sequential(
            *(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False) for a, b in pairwise(channels))
        )
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set positions and trunk to the class's table."""
        nn.init.normal_(self.positions, std=0.02)
        initialise(self.trunk.sublayers, self.depth)

    def forward(self, pixels: Tensor, observe: Observer | None = None) -> Tensor:
        """[B, 3, H, W] -> [B, m, d] with m = H W / stride^2, row by row."""
        grid_of(self, pixels, self.stride)
        x = self.patch(pixels).movedim(1, -1)
        grid = x.shape[1], x.shape[2]
        x = (x + resize_grid(self.positions, grid)).flatten(1, 2)
        x = self.trunk(x, Context(grid=grid, observe=observe))
        features = self.compressor(self.neck(x.unflatten(1, grid).movedim(-1, 1)))
        return features.flatten(2).mT
