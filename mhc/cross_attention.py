"""Attention to a memory; pre-norm inside."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from mhc.context import Context
from mhc.description import Described
from mhc.norm import RMSNorm


class CrossAttention(Described):
    """Multi-head attention of norm(x) to the context's memory, without positions.

    The memory is taken as it is: who makes it normalises it.

    Args:
        width: C.
        heads: each is C / heads wide.
        memory_width: D of the memory [B, M, D]; None is C.
        bias: of queries, keys and values.
        output_bias: of the output.
        norm: makes the norm of x from its width.

    Raises:
        ValueError: `width` not divisible by `heads`; in forward, no memory, or one of another width.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        memory_width: int | None = None,
        bias: bool = False,
        output_bias: bool = False,
        norm: Callable[[int], nn.Module] = RMSNorm,
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width must be divisible by heads, got width {width} and heads {heads}")
        self.heads, self.head_width = heads, width // heads
        self.memory_width = width if memory_width is None else memory_width
        self.norm = norm(width)
        self.query = nn.Linear(width, width, bias=bias)
        self.key_value = nn.Linear(self.memory_width, 2 * width, bias=bias)
        self.output = nn.Linear(width, width, bias=output_bias)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """[B, S, C] -> [B, S, C]; reads the memory from the context."""
        memory = None if context is None else context.memory
        if memory is None or memory.shape[-1] != self.memory_width:
            found = "none" if memory is None else f"one of width {memory.shape[-1]}"
            raise ValueError(f"cross-attention needs a memory of width {self.memory_width} in the context, got {found}")
        batch, length, width = x.shape
        query = self.query(self.norm(x)).view(batch, length, self.heads, self.head_width)
        key, value = self.key_value(memory).unflatten(-1, (2, self.heads, self.head_width)).unbind(2)
        y = F.scaled_dot_product_attention(*(tensor.transpose(1, 2) for tensor in (query, key, value)))
        return self.output(y.transpose(1, 2).reshape(batch, length, width))
