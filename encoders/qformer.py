"""The Q-Former: queries that see each other and read the visual tokens by cross-attention."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from encoders.arguments import require_queries, require_visual
from encoders.interface import VisionEncoder
from mhc import Attention, CrossAttention, FeedForward, Residual, TopologyFactory, Trunk
from mhc.context import Context, Observer
from mhc.initialisation import initialise
from mhc.recompute import Recompute


class QFormerEncoder(VisionEncoder):
    """Bidirectional self-attention over Q, with cross-attention to LayerNorm(V) in every so many blocks.

    The attention pattern of BLIP-2's Q-Former (arXiv 2301.12597, section 3.1): blocks 0, k, 2k, ... have
    cross-attention between self-attention and feed-forward. It is pre-norm by choice, with a LayerNorm at the end,
    where BLIP-2 is post-norm with one before the first block: pre-norm is what every other encoder here has, so that
    a comparison is of attention patterns alone. V is normalised once, as BLIP-2 normalises its image features, and
    never updated. Neither V nor Q gets positions: V has them from its tokenizer, and a learned query is its own.

    With `cross_attention_every=1` and a bank of 100 queries it has the attention pattern of DETR's decoder and object
    queries (arXiv 2005.12872, section 3.2); how many queries there are is the query bank's business.

    Args:
        width: d, of the queries.
        memory_width: of the visual tokens; None is `width`.
        depth: blocks.
        heads: of every attention.
        hidden: of the feed-forward; GELU.
        cross_attention_every: k, of the blocks that read the visual tokens; BLIP-2: 2.
        topology: (width, sublayer index) -> ResidualTopology; None for the plain residual.
        recompute: of the trunk: None, "auto" or every how many sublayers the streams are kept.

    Raises:
        ValueError: a size below 1, a width that the heads do not divide; in forward, no queries, or tokens or queries
            of another shape.
    """

    def __init__(
        self,
        *,
        width: int = 768,
        memory_width: int | None = None,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        cross_attention_every: int = 2,
        topology: TopologyFactory | None = None,
        recompute: Recompute = None,
    ) -> None:
        super().__init__()
        self.memory_width = width if memory_width is None else memory_width
        sizes = {"width": width, "memory_width": self.memory_width, "depth": depth}
        for name, size in (sizes | {"cross_attention_every": cross_attention_every}).items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.width = self.output_width = width
        self.depth = depth
        self.memory_norm = nn.LayerNorm(self.memory_width)
        shared: dict[str, Any] = {"bias": True, "output_bias": True, "norm": nn.LayerNorm}
        cross_attention = partial(CrossAttention, width, heads=heads, memory_width=self.memory_width, **shared)
        sublayers: list[nn.Module] = []
        for block in range(depth):
            sublayers.append(Attention(width, heads=heads, rotary_base=None, causal=False, **shared))
            if block % cross_attention_every == 0:
                sublayers.append(cross_attention())
            sublayers.append(FeedForward(width, hidden=hidden, bias=True, norm=nn.LayerNorm))
        topology = topology or Residual
        self.trunk = Trunk(sublayers, (topology(width, index) for index in range(len(sublayers))), recompute=recompute)
        self.norm = nn.LayerNorm(width)
        self.reset_parameters()

    @property
    def visual_width(self) -> int:
        """Width of the visual tokens it reads."""
        return self.memory_width

    def reset_parameters(self) -> None:
        """Set the trunk as `mhc.initialisation.initialise` says."""
        # which counts the writes to the residual in pairs, and a block with cross-attention has three
        initialise(self.trunk.sublayers, (len(self.trunk.sublayers) + 1) // 2)

    def forward(
        self, visual: Tensor, queries: Tensor | None, grid: tuple[int, int], observe: Observer | None = None
    ) -> Tensor:
        """[B, m, memory_width] and [B, q, d] -> [B, q, d]; every query depends on all of V and on all queries."""
        require_visual(self, visual, grid, self.memory_width)
        queries = require_queries(self, queries, len(visual), self.width)
        context = Context(memory=self.memory_norm(visual), observe=observe)
        return self.norm(self.trunk(queries, context))
