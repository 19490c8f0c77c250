"""Self-attention in windows of a grid, with decomposed relative positions; pre-norm inside."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.grid_attention import grid_attention
from mhc import Described
from mhc.context import Context


class WindowAttention(Described):
    """Multi-head self-attention of norm(x) within windows, or within the whole grid (SAM, arXiv 2304.02643).

    The grid is filled up to whole windows with zeros behind the norm. Such a token is not masked: its key and value are
    the biases, and real tokens see it.

    | parameter | start |
    |---|---|
    | linear | `mhc.initialisation.initialise` |
    | relative positions | 0 |

    Args:
        width: C.
        heads: each is C / heads wide.
        window: side of a window; 0 for the whole grid.
        side: S, of the grid that relative positions are learned on; None for the window. Other grids interpolate them.
        norm: makes the norm from its width.

    Raises:
        ValueError: a size out of range, `width` not divisible by `heads`, neither window nor side; in forward, a
            context without the tokens' grid.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        window: int = 0,
        side: int | None = None,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width must be divisible by heads, got width {width} and heads {heads}")
        if window < 0:
            raise ValueError(f"window must be at least 1, or 0 for the whole grid, got {window}")
        side = window if side is None else side
        if side < 1:
            raise ValueError(f"side must be at least 1 where there is no window, got {side}")
        self.heads, self.window = heads, window
        self.norm = norm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.relative_rows = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
        self.relative_columns = nn.Parameter(torch.zeros(2 * side - 1, width // heads))

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """[B, S, C] -> [B, S, C]; reads the grid from the context."""
        grid = None if context is None else context.grid
        if grid is None or grid[0] * grid[1] != x.shape[1]:
            raise ValueError(
                f"WindowAttention needs the grid of its {x.shape[1]} tokens, got {grid}: set Context.grid to "
                "(rows, columns)"
            )
        r, c = (self.window, self.window) if self.window else grid
        query, key, value = self._into_windows(self.query_key_value(self.norm(x)), grid, (r, c))
        tables = relative(self.relative_rows, r), relative(self.relative_columns, c)
        return self.output(self._out_of_windows(grid_attention(query, key, value, *tables), grid, (r, c)))

    def _into_windows(self, heads: Tensor, grid: tuple[int, int], window: tuple[int, int]) -> list[Tensor]:
        # 3 x [B windows, H, tokens of a window, D]
        (rows, columns), (r, c) = grid, window
        heads = heads.unflatten(1, grid)
        # what the linear layer makes of zeros, without the product
        filling = self.query_key_value.bias.to(heads.dtype)
        if columns % c:
            heads = torch.cat([heads, filling.expand(len(heads), rows, c - columns % c, -1)], 2)
        if rows % r:
            heads = torch.cat([heads, filling.expand(len(heads), r - rows % r, heads.shape[2], -1)], 1)
        heads = heads.unflatten(-1, (3, self.heads, -1)).unflatten(2, (-1, c)).unflatten(1, (-1, r))
        batch, down, _, across, _, _, _, width = heads.shape
        heads = heads.permute(5, 0, 1, 3, 6, 2, 4, 7)
        return list(heads.reshape(3, batch * down * across, self.heads, r * c, width).unbind(0))

    def _out_of_windows(self, y: Tensor, grid: tuple[int, int], window: tuple[int, int]) -> Tensor:
        (rows, columns), (r, c) = grid, window
        down, across = -(-rows // r), -(-columns // c)
        y = y.unflatten(0, (len(y) // (down * across), down, across)).unflatten(-2, (r, c))
        y = y.permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(3, 4).flatten(1, 2)
        return y[:, :rows, :columns].flatten(1, 2)


def relative(table: Tensor, side: int) -> Tensor:
    """Relative positions [2S - 1, D] -> [side, side, D], by place of the query and of the key.

    The distance of -(side - 1) to side - 1 is query - key; tables of another size are interpolated linearly, in fp32 at
    least.
    """
    distances = 2 * side - 1
    if len(table) != distances:
        line = table.to(torch.promote_types(table.dtype, torch.float32)).mT[None]
        table = F.interpolate(line, size=distances, mode="linear")[0].mT.to(table.dtype)
    place = torch.arange(side, device=table.device)
    return table[place[:, None] - place + side - 1]
