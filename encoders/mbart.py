"""mBART's encoder and decoder: queries read the encoded visual tokens by cross-attention."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from encoders.arguments import require_queries, require_visual
from encoders.interface import VisionEncoder
from mhc import Attention, CrossAttention, FeedForward, Residual, TopologyFactory, Trunk
from mhc.context import Context, Observer
from mhc.initialisation import initialise
from mhc.recompute import Recompute


class MBARTEncoder(VisionEncoder):
    """Self-attention over V, then causal self-attention over Q with cross-attention to the encoded V.

    The pre-norm encoder-decoder of mBART (arXiv 2001.08210): both sides add learned positions, pass a LayerNorm, the
    trunk and a final LayerNorm. An encoder block is two sublayers, a decoder block three: self-attention,
    cross-attention, feed-forward. Visual tokens are numbered in raster order whatever the grid, and not scaled.

    `observe` gets 0 to 2 encoder_depth - 1 from the encoder's sublayers and counts on from 2 encoder_depth in the
    decoder's; the streams begin anew there. Topologies are indexed from 0 in both.

    | parameter | start |
    |---|---|
    | positions | normal, std 0.02 |
    | trunks | `mhc.initialisation.initialise` |

    Args:
        width: d, of visual tokens and queries.
        encoder_depth: blocks over the visual tokens.
        decoder_depth: blocks over the queries.
        heads: of every attention.
        hidden: of every feed-forward.
        max_positions: how many visual tokens, and how many queries, have a learned position.
        topology: (width, sublayer index) -> ResidualTopology; None for the plain residual.
        recompute: of the trunk: None, "auto" or every how many sublayers the streams are kept.

    Raises:
        ValueError: a size below 1, a width that the heads do not divide; in forward, no queries, tokens or queries of
            another shape, or more than `max_positions` of either.
    """

    def __init__(
        self,
        *,
        width: int = 1024,
        encoder_depth: int = 12,
        decoder_depth: int = 12,
        heads: int = 16,
        hidden: int = 4096,
        max_positions: int = 1024,
        topology: TopologyFactory | None = None,
        recompute: Recompute = None,
    ) -> None:
        super().__init__()
        sizes = {"width": width, "encoder_depth": encoder_depth, "decoder_depth": decoder_depth}
        for name, size in (sizes | {"max_positions": max_positions}).items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.width = self.output_width = width
        self.encoder_depth, self.decoder_depth, self.max_positions = encoder_depth, decoder_depth, max_positions

        shared: dict[str, Any] = {"bias": True, "output_bias": True, "norm": nn.LayerNorm}
        attention = partial(Attention, width, heads=heads, rotary_base=None, **shared)
        cross_attention = partial(CrossAttention, width, heads=heads, **shared)
        feed_forward = partial(FeedForward, width, hidden=hidden, bias=True, norm=nn.LayerNorm)
        encoder: list[nn.Module] = []
        for _ in range(encoder_depth):
            encoder += [attention(causal=False), feed_forward()]
        decoder: list[nn.Module] = []
        for _ in range(decoder_depth):
            decoder += [attention(causal=True), cross_attention(), feed_forward()]
        topology = topology or Residual
        self.visual_positions = nn.Parameter(torch.empty(max_positions, width))
        self.visual_norm = nn.LayerNorm(width)
        self.encoder = Trunk(encoder, (topology(width, index) for index in range(len(encoder))), recompute=recompute)
        self.encoder_norm = nn.LayerNorm(width)
        self.query_positions = nn.Parameter(torch.empty(max_positions, width))
        self.query_norm = nn.LayerNorm(width)
        self.decoder = Trunk(decoder, (topology(width, index) for index in range(len(decoder))), recompute=recompute)
        self.decoder_norm = nn.LayerNorm(width)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set positions and trunks to the class's table."""
        for positions in (self.visual_positions, self.query_positions):
            nn.init.normal_(positions, std=0.02)
        for trunk in (self.encoder, self.decoder):
            # `initialise` counts the writes to the residual in pairs, and a decoder block has three
            initialise(trunk.sublayers, (len(trunk.sublayers) + 1) // 2)

    def forward(
        self, visual: Tensor, queries: Tensor | None, grid: tuple[int, int], observe: Observer | None = None
    ) -> Tensor:
        """[B, m, d] and [B, q, d] -> [B, q, d]; query i depends on all of V and on queries up to i."""
        require_visual(self, visual, grid, self.width)
        queries = require_queries(self, queries, len(visual), self.width)
        for name, tokens in (("visual tokens", visual), ("queries", queries)):
            if tokens.shape[1] > self.max_positions:
                raise ValueError(
                    f"MBARTEncoder has positions for {self.max_positions} {name}, got {tokens.shape[1]}: raise "
                    "max_positions"
                )
        x = self.visual_norm(visual + self.visual_positions[: visual.shape[1]])
        memory = self.encoder_norm(self.encoder(x, Context(observe=observe)))
        x = self.query_norm(queries + self.query_positions[: queries.shape[1]])
        context = Context(memory=memory, observe=_shifted(observe, len(self.encoder.sublayers)))
        return self.decoder_norm(self.decoder(x, context))


def _shifted(observe: Observer | None, first: int) -> Observer | None:
    if observe is None:
        return None
    return lambda index, topology, state, carry: observe(first + index, topology, state, carry)
