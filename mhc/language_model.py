"""A causal language model on the trunk."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mhc.context import Context
from mhc.decoding import Processor, generate
from mhc.description import Described
from mhc.initialisation import initialise
from mhc.norm import RMSNorm
from mhc.recompute import Recompute
from mhc.topology import TopologyFactory
from mhc.trunk import Trunk

SublayerFactory = Callable[[int], nn.Module]


class CausalLanguageModel(Described):
    """Embedding, trunk of attention and feed-forward sublayers in turn, norm, head.

    | parameter | start |
    |---|---|
    | embedding, head | normal, std 0.02 |
    | sublayers | `mhc.initialisation.initialise` |
    | norms | 1 |
    | topologies | their own `init` |

    Args:
        vocabulary_size: V.
        width: C.
        depth: blocks; each is an attention and a feed-forward sublayer.
        topology: (width, sublayer index) -> ResidualTopology.
        attention: width -> attention sublayer.
        feed_forward: width -> feed-forward sublayer.
        dense_feed_forward: width -> feed-forward sublayer of the first blocks; None for `feed_forward` in all.
        dense_blocks: how many blocks at the start have it (1 in DeepSeek's mixtures of experts, arXiv 2401.06066).
        tied: the head is the embedding.
        recompute: of the trunk: None, "auto" or every how many sublayers the streams are kept.

    Raises:
        ValueError: a size below 1, too many `dense_blocks` or no factory for them, or what the factories refuse.
    """

    def __init__(
        self,
        vocabulary_size: int,
        width: int,
        depth: int,
        *,
        topology: TopologyFactory,
        attention: SublayerFactory,
        feed_forward: SublayerFactory,
        dense_feed_forward: SublayerFactory | None = None,
        dense_blocks: int = 0,
        tied: bool = True,
        recompute: Recompute = None,
    ) -> None:
        super().__init__()
        for name, size in (("vocabulary_size", vocabulary_size), ("width", width), ("depth", depth)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if not 0 <= dense_blocks <= depth:
            raise ValueError(f"dense_blocks must be from 0 to the depth of {depth}, got {dense_blocks}")
        if dense_feed_forward is None:
            if dense_blocks:
                raise ValueError(f"dense_blocks is {dense_blocks}, which needs a dense_feed_forward")
            dense_feed_forward = feed_forward
        feed_forwards = [dense_feed_forward] * dense_blocks + [feed_forward] * (depth - dense_blocks)
        self.vocabulary_size, self.width, self.depth = vocabulary_size, width, depth
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.trunk = Trunk(
            (make(width) for block in feed_forwards for make in (attention, block)),
            (topology(width, index) for index in range(2 * depth)),
            recompute=recompute,
        )
        self.norm = RMSNorm(width)
        self.head = None if tied else nn.Linear(width, vocabulary_size, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the weights of embedding, head and sublayers to the class's table."""
        nn.init.normal_(self.embedding.weight, std=0.02)
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=0.02)
        initialise(self.trunk.sublayers, self.depth)

    def forward(
        self,
        tokens: Tensor | None = None,
        context: Context | None = None,
        *,
        embeddings: Tensor | None = None,
        last: int | None = None,
    ) -> Tensor:
        """Token numbers [B, S], or embeddings [B, S, C] in their place -> logits [B, S, V].

        Args:
            tokens: from 0 to V - 1.
            context: positions, mask, cache and the like.
            embeddings: what the trunk reads, where that is not the tokens' own embedding.
            last: of how many tokens at the end logits are wanted, [B, last, V]; None of all.

        Raises:
            ValueError: both tokens and embeddings, or neither; `last` below 1.
        """
        if (tokens is None) == (embeddings is None):
            raise ValueError(
                "the model reads either tokens or embeddings, got " + ("neither" if tokens is None else "both")
            )
        if last is not None and last < 1:
            raise ValueError(f"last must be at least 1, got {last}")
        x = self.trunk(self.embedding(tokens) if embeddings is None else embeddings, context)
        x = self.norm(x if last is None else x[:, -last:])
        return F.linear(x, self.embedding.weight) if self.head is None else self.head(x)

    def generate(
        self,
        tokens: Tensor | None,
        max_new_tokens: int,
        *,
        embeddings: Tensor | None = None,
        mask: Tensor | None = None,
        end_token: int | None = None,
        padding_token: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        processors: Sequence[Processor] = (),
        generator: torch.Generator | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Continue prompts [B, S] with a key-value cache: [B, S + n]; see `mhc.decoding.generate`."""
        return generate(
            self,
            tokens,
            max_new_tokens,
            embeddings=embeddings,
            mask=mask,
            end_token=end_token,
            padding_token=padding_token,
            temperature=temperature,
            top_k=top_k,
            processors=processors,
            generator=generator,
            progress=progress,
        )
