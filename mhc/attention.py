"""Self-attention with rotary positions and grouped key-value heads; pre-norm inside."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mhc.context import Context
from mhc.description import Described
from mhc.norm import RMSNorm


class Attention(Described):
    """Multi-head self-attention of norm(x), through torch's scaled_dot_product_attention.

    Args:
        width: C.
        heads: query heads; each is C / heads wide.
        key_value_heads: key-value heads, shared by groups of query heads; None takes `heads`.
        query_key_norm: RMS-normalise queries and keys per head before the rotation.
        rotary_base: of the rotary angles (arXiv 2104.09864), halves rotated as in Llama; None for no positions.
        causal: a token sees itself and earlier ones alone.
        bias: of queries, keys and values.
        output_bias: of the output.
        norm: makes the norm from its width.

    Raises:
        ValueError: `width` not divisible by `heads`, `heads` not divisible by `key_value_heads`, an odd head.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        key_value_heads: int | None = None,
        query_key_norm: bool = False,
        rotary_base: float | None = 10000.0,
        causal: bool = True,
        bias: bool = False,
        output_bias: bool = False,
        norm: Callable[[int], nn.Module] = RMSNorm,
    ) -> None:
        super().__init__()
        groups = heads if key_value_heads is None else key_value_heads
        if heads < 1 or width % heads:
            raise ValueError(f"width must be divisible by heads, got width {width} and heads {heads}")
        if groups < 1 or heads % groups:
            raise ValueError(f"heads must be divisible by key_value_heads, got heads {heads} and {groups}")
        self.heads, self.key_value_heads, self.head_width = heads, groups, width // heads
        if rotary_base is not None and self.head_width % 2:
            raise ValueError(f"rotary positions need an even head width, got {width} / {heads} = {self.head_width}")
        self.rotary_base, self.causal = rotary_base, causal
        self.norm = norm(width)
        self.query_key_value = nn.Linear(width, (heads + 2 * groups) * self.head_width, bias=bias)
        self.output = nn.Linear(width, width, bias=output_bias)
        self.query_norm = RMSNorm(self.head_width) if query_key_norm else nn.Identity()
        self.key_norm = RMSNorm(self.head_width) if query_key_norm else nn.Identity()

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """[B, S, C] -> [B, S, C]; reads positions, mask, documents and cache from the context."""
        context = context or Context()
        batch, length, width = x.shape
        heads = self.query_key_value(self.norm(x)).unflatten(-1, (-1, self.head_width))
        query, key, value = heads.split([self.heads, self.key_value_heads, self.key_value_heads], 2)
        query, key = self.query_norm(query), self.key_norm(key)
        if self.rotary_base is not None:
            cosine, sine = context.rotation(length, self.head_width, self.rotary_base, x.device)
            query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
        if context.cache is not None:
            key, value = context.cache.update(context.index, key, value)
        y = self._attend(query, key, value, context)
        return self.output(y.transpose(1, 2).reshape(batch, length, width))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> Tensor:
        new, seen = query.shape[2], key.shape[2]
        grouped = self.heads != self.key_value_heads
        if self.causal and new == seen > 1 and context.mask is None and context.documents is None:
            return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)
        visible = context.visible(new, seen, self.causal, query.device)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=visible, enable_gqa=grouped)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate x [B, S, H, D] by angles given as cosine and sine [S, D] or [B, S, D]; halves of D are paired."""
    return _Rotation.apply(x, cosine.unsqueeze(-2).to(x.dtype), sine.unsqueeze(-2).to(x.dtype))


class _Rotation(torch.autograd.Function):
    """Three passes and no temporary; the gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        half = x.shape[-1] // 2
        turned = x * cosine
        turned[..., :half].addcmul_(x[..., half:], sine[..., :half], value=-1)
        turned[..., half:].addcmul_(x[..., :half], sine[..., half:])
        return turned

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _Rotation.apply(gradient, cosine, -sine), None, None
