"""Learned absolute positions on a grid, resized to the grid of an image."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_grid(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resize positions [1, G, G, C] to [1, rows, columns, C]: bicubic with antialiasing, in fp32 at least.

    The table itself where the size is the same (the released code of DeepSeek-OCR 2, arXiv 2601.20552).

    Args:
        table: learned positions [1, rows, columns, C].
        grid: (rows, columns) wanted.

    Raises:
        ValueError: a grid without rows or columns.
    """
    if min(grid) < 1:
        raise ValueError(f"grid must have at least one row and one column, got {tuple(grid)}")
    if tuple(table.shape[1:3]) == tuple(grid):
        return table
    planes = table.movedim(-1, 1).to(torch.promote_types(table.dtype, torch.float32))
    planes = F.interpolate(planes, size=tuple(grid), mode="bicubic", align_corners=False, antialias=True)
    return planes.movedim(1, -1).to(table.dtype)
