"""The specification: scaled dot product attention under the dense [S, S] mask."""

import torch
import torch.nn.functional as F
from torch import Tensor


def prefix_attention(query: Tensor, key: Tensor, value: Tensor, *, prefix: int, scale: float | None) -> Tensor:
    """See `kernels.prefix_attention`."""
    mask = dense_mask(query.shape[2], prefix, query.device)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )


def dense_mask(length: int, prefix: int, device: torch.device | None = None) -> Tensor:
    """Who sees whom, bool [S, S]: every token the prefix, and each later token those from the prefix to itself."""
    position = torch.arange(length, device=device)
    return (position < prefix) | ((position <= position[:, None]) & (position[:, None] >= prefix))
