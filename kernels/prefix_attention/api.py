"""The attention of a causal-flow encoder: a bidirectional prefix, then causal queries."""

from typing import Literal

import torch
from torch import Tensor

from kernels.dispatch import require, require_floating
from kernels.prefix_attention import flex, reference, split

Implementation = Literal["auto", "reference", "split", "flex"]


def prefix_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    prefix: int,
    impl: Implementation = "auto",
    scale: float | None = None,
) -> Tensor:
    """Attend within [V, Q]: tokens of the prefix V see all of V and no more, token i after it sees V and Q up to i.

    softmax(scale query key^T + M) value with M = 0 where the token is seen and -inf elsewhere (arXiv 2601.20552, the
    mask of the causal-flow encoder).

    Args:
        query: [B, H, S, D].
        key: [B, G, S, D]; G divides H, and H / G heads in a row share one of key and value.
        value: [B, G, S, D].
        prefix: tokens of V, 0 (causal) to S (bidirectional).
        impl: "auto" (the fastest by size on CPU, "split" elsewhere), "reference" (dense mask), "split" (two attentions
            without a mask) or "flex" (compiled FlexAttention, on GPU).
        scale: of the scores; None is 1 / sqrt(D).

    Returns:
        [B, H, S, D] in the dtype of `query`, or of autocast where it is on.

    Raises:
        ValueError: a shape, dtype or option out of range, by name.
        RuntimeError: `impl="flex"` on another device than a GPU.
    """
    name = "prefix_attention"
    require(impl in ("auto", "reference", "split", "flex"), name, "impl", "'auto', 'reference', 'split', 'flex'", impl)
    require_floating(name, query=query, key=key, value=value)
    require(query.dim() == 4, name, "query", "[B, H, S, D]", list(query.shape))
    batch, heads, length, width = query.shape
    require(key.dim() == 4, name, "key", "[B, G, S, D]", list(key.shape))
    groups = key.shape[1]
    sizes = [batch, groups, length, width]
    require(groups > 0 and heads % groups == 0, name, "key", f"of a number of heads that divides {heads}", groups)
    for argument, tensor in (("key", key), ("value", value)):
        require(list(tensor.shape) == sizes, name, argument, f"[B, G, S, D] = {sizes}", list(tensor.shape))
    require(type(prefix) is int and 0 <= prefix <= length, name, "prefix", f"an int from 0 to S = {length}", prefix)
    require(scale is None or scale > 0, name, "scale", "positive or None", scale)
    device = query.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        query, key, value = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (query, key, value))
    for argument, tensor in (("key", key), ("value", value)):
        require(tensor.dtype == query.dtype, name, argument, f"of the dtype of query, {query.dtype}", tensor.dtype)
    if impl == "flex" and device != "cuda":
        raise RuntimeError(f"{name}: impl='flex' was asked for, but compiled FlexAttention runs on a GPU, not {device}")
    if impl == "auto":
        impl = "split" if _splitting_pays(query, prefix) else "reference"
    if query.numel() == 0:
        impl = "reference"
    code = {"reference": reference, "split": split, "flex": flex}[impl]
    return code.prefix_attention(query, key, value, prefix=prefix, scale=scale)


def _splitting_pays(query: Tensor, prefix: int) -> bool:
    # below these lengths the second call costs more on CPU than the masked half of the scores
    length = query.shape[2]
    shortest = 128 if query.dtype in (torch.float32, torch.float64) else 384
    return query.device.type != "cpu" or prefix in (0, length) or length >= shortest
