"""Compiled FlexAttention on GPU: one kernel that skips the blocks of the mask that are empty."""

import functools
from typing import Any

import torch
from torch import Tensor


def prefix_attention(query: Tensor, key: Tensor, value: Tensor, *, prefix: int, scale: float | None) -> Tensor:
    """See `kernels.prefix_attention`."""
    mask = _block_mask(query.shape[2], prefix, query.device)
    return _compiled()(query, key, value, block_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1])


@functools.cache
def _compiled() -> Any:
    # FlexAttention is slow and holds the whole matrix of scores unless it is compiled
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


@functools.lru_cache(maxsize=64)
def _block_mask(length: int, prefix: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return (column < prefix) | ((column <= row) & (row >= prefix))

    return create_block_mask(sees, None, None, length, length, device=str(device))
