"""The language model as vision encoder: visual tokens, then queries, in one sequence (arXiv 2601.20552, section 3)."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.arguments import require_queries, require_visual
from encoders.interface import VisionEncoder
from kernels.prefix_attention import prefix_attention
from mhc.attention import Attention
from mhc.context import Context, Observer
from mhc.feed_forward import SwiGLU
from mhc.initialisation import initialise
from mhc.norm import RMSNorm
from mhc.recompute import Recompute
from mhc.topology import Residual, TopologyFactory
from mhc.trunk import Trunk


class PrefixAttention(Attention):
    """Attention over [V, Q]: the prefix V sees all of V and no query, a query sees V, itself and the queries before it.

    M = [[1_{m x m}, 0_{m x q}], [1_{q x m}, LowerTri(q)]] with m = `context.prefix`, never made as a matrix where that
    is slower (arXiv 2601.20552; `kernels.prefix_attention`).

    Args:
        width: C.
        heads: query heads; each is C / heads wide.
        key_value_heads: key-value heads, shared by groups of query heads; None takes `heads`.
        rotary_base: of the rotary angles, whose positions count on over V and Q; None for no positions.
        bias: of queries, keys and values.
        norm: makes the norm from its width.

    Raises:
        ValueError: what `Attention` refuses.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        key_value_heads: int | None = None,
        rotary_base: float | None = 1e6,
        bias: bool = True,
        norm: Callable[[int], nn.Module] = RMSNorm,
    ) -> None:
        super().__init__(
            width, heads=heads, key_value_heads=key_value_heads, rotary_base=rotary_base, bias=bias, norm=norm
        )

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """[B, m + q, C] -> [B, m + q, C]; reads prefix and positions from the context.

        Raises:
            ValueError: a context with a mask or a cache, which would not be read.
        """
        if context is not None and any(given is not None for given in (context.mask, context.documents, context.cache)):
            raise ValueError(
                f"{type(self).__name__} reads whole views: give it a context without mask, documents and cache, and "
                "views of one size"
            )
        return super().forward(x, context)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> Tensor:
        return prefix_attention(query, key, value, prefix=context.prefix)


class BidirectionalQueryAttention(PrefixAttention):
    """Attention over [V, Q]: the prefix V sees all of V and no query, a query sees V and every query.

    M = [[1_{m x m}, 0_{m x q}], [1_{q x m}, 1_{q x q}]]: what `PrefixAttention` is but for the order among queries.
    """

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> Tensor:
        attend = partial(F.scaled_dot_product_attention, enable_gqa=self.heads != self.key_value_heads)
        of_visual, of_queries = query.tensor_split([context.prefix], 2)
        visual = attend(of_visual, key[:, :, : context.prefix], value[:, :, : context.prefix])
        return torch.cat([visual, attend(of_queries, key, value)], 2)


class CausalFlowEncoder(VisionEncoder):
    """Read [V, Q] with a language model's trunk and give what stands at Q, normalised (arXiv 2601.20552, section 3.2).

    The shapes are Qwen2-0.5B's by default. There may be more or fewer queries than visual tokens.

    Args:
        width: d, of visual tokens, queries and output.
        depth: blocks; each is an attention and a feed-forward sublayer.
        heads: query heads.
        key_value_heads: key-value heads.
        hidden: of the feed-forward.
        rotary_base: of the rotary angles over positions 0 to m + q - 1.
        causal_queries: a query sees the queries before it; otherwise every query.
        topology: (width, sublayer index) -> ResidualTopology; None is the plain residual.
        recompute: of the trunk: None, "auto" or every how many sublayers the streams are kept.

    Raises:
        ValueError: sizes that the sublayers or the trunk refuse.
    """

    def __init__(
        self,
        *,
        width: int = 896,
        depth: int = 24,
        heads: int = 14,
        key_value_heads: int = 2,
        hidden: int = 4864,
        rotary_base: float = 1e6,
        causal_queries: bool = True,
        topology: TopologyFactory | None = None,
        recompute: Recompute = None,
    ) -> None:
        super().__init__()
        self.width = self.output_width = width
        self.depth = depth
        kind = PrefixAttention if causal_queries else BidirectionalQueryAttention
        attention = partial(kind, heads=heads, key_value_heads=key_value_heads, rotary_base=rotary_base)
        feed_forward = partial(SwiGLU, hidden=hidden)
        make_topology = Residual if topology is None else topology
        self.trunk = Trunk(
            [make(width) for _ in range(depth) for make in (attention, feed_forward)],
            [make_topology(width, index) for index in range(2 * depth)],
            recompute=recompute,
        )
        self.norm = RMSNorm(width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weights of the sublayers to the table of `mhc.initialisation`."""
        initialise(self.trunk.sublayers, self.depth)

    def forward(
        self, visual: Tensor, queries: Tensor | None, grid: tuple[int, int], observe: Observer | None = None
    ) -> Tensor:
        """[B, m, d] and [B, q, d] -> [B, q, d]; raster order is all that is read of the grid.

        Raises:
            ValueError: no queries, or tensors of another width, batch or grid.
        """
        require_visual(self, visual, grid, self.width)
        queries = require_queries(self, queries, len(visual), self.width)
        count = visual.shape[1]
        x = self.trunk(torch.cat([visual, queries], 1), Context(prefix=count, observe=observe))
        return self.norm(x[:, count:])
