"""CLIP's vision transformer on a tokenizer's grid: bidirectional attention, with or without queries."""

from typing import Any

import torch
from torch import Tensor, nn

from encoders.arguments import require_queries, require_visual
from encoders.interface import VisionEncoder
from encoders.positions import resize_grid
from mhc import Attention, FeedForward, Residual, TopologyFactory, Trunk
from mhc.context import Context, Observer
from mhc.initialisation import initialise
from mhc.recompute import Recompute


class CLIPEncoder(VisionEncoder):
    """[class, V] or [class, V, Q] through a pre-norm trunk in which every token sees every token.

    Without queries it is OCR 1's encoder (CLIP-L, arXiv 2103.00020, behind SAM, arXiv 2510.18234): class token and
    learned positions in front, a LayerNorm before the trunk and none after it; what comes out are the m visual
    positions. With queries, which get no positions of the table, what comes out are the q query positions. The class
    token is dropped in both.

    | parameter | start |
    |---|---|
    | class token | normal, std 1 / sqrt(width) |
    | positions | normal, std 0.02 |
    | trunk | `mhc.initialisation.initialise` |

    Args:
        width: d, of visual tokens and queries.
        depth: blocks; each is an attention and a feed-forward sublayer.
        heads: of the attention.
        hidden: of the feed-forward.
        grid: side of the grid of learned positions; other grids interpolate it, bicubic with antialiasing.
        append_visual: without queries, append the visual tokens to the m outputs, [B, m, 2d], as OCR 1 does.
        topology: (width, sublayer index) -> ResidualTopology; None for the plain residual.
        recompute: of the trunk: None, "auto" or every how many sublayers the streams are kept.

    Raises:
        ValueError: a size below 1, a width that the heads do not divide; in forward, tokens or queries of another
            shape, or queries where `append_visual` is set.
    """

    def __init__(
        self,
        *,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        hidden: int = 4096,
        grid: int = 16,
        append_visual: bool = False,
        topology: TopologyFactory | None = None,
        recompute: Recompute = None,
    ) -> None:
        super().__init__()
        for name, size in (("width", width), ("depth", depth), ("grid", grid)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.width, self.depth, self.grid, self.append_visual = width, depth, grid, append_visual
        self.output_width = 2 * width if append_visual else width
        self.class_token = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(1 + grid**2, width))
        self.norm = nn.LayerNorm(width)
        shared: dict[str, Any] = {"bias": True, "output_bias": True, "norm": nn.LayerNorm}
        sublayers: list[nn.Module] = []
        for _ in range(depth):
            sublayers += [
                Attention(width, heads=heads, rotary_base=None, causal=False, **shared),
                FeedForward(width, hidden=hidden, activation=quick_gelu, bias=True, norm=nn.LayerNorm),
            ]
        topology = topology or Residual
        self.trunk = Trunk(sublayers, (topology(width, index) for index in range(len(sublayers))), recompute=recompute)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set class token, positions and trunk to the class's table."""
        nn.init.normal_(self.class_token, std=self.width**-0.5)
        nn.init.normal_(self.positions, std=0.02)
        initialise(self.trunk.sublayers, self.depth)

    def forward(
        self, visual: Tensor, queries: Tensor | None, grid: tuple[int, int], observe: Observer | None = None
    ) -> Tensor:
        """[B, m, d] and [B, q, d] -> [B, q, d]; without queries [B, m, d], or [B, m, 2d] with the tokens appended."""
        require_visual(self, visual, grid, self.width)
        batch, m, _ = visual.shape
        table = self.positions[1:].view(1, self.grid, self.grid, self.width)
        positions = torch.cat([self.positions[:1], resize_grid(table, grid).reshape(m, self.width)])
        x = torch.cat([self.class_token.expand(batch, 1, -1), visual], 1) + positions
        if queries is not None:
            if self.append_visual:
                raise ValueError(
                    "append_visual joins a visual token to each output, and outputs of queries have none: set it to "
                    "false, or give no queries"
                )
            x = torch.cat([x, require_queries(self, queries, batch, self.width)], 1)
        y = self.trunk(self.norm(x), Context(observe=observe))
        if queries is not None:
            return y[:, 1 + m :]
        return torch.cat([y[:, 1:], visual], -1) if self.append_visual else y[:, 1:]


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), CLIP's approximation of GELU (arXiv 1606.08415, section 2)."""
    return x * torch.sigmoid(1.702 * x)
