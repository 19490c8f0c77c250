"""A causal language model on the trunk."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mhc.context import Context, KeyValueCache
from mhc.description import Described
from mhc.norm import RMSNorm
from mhc.recompute import Recompute
from mhc.topology import TopologyFactory
from mhc.trunk import Trunk

SublayerFactory = Callable[[int], nn.Module]


class CausalLanguageModel(Described):
    """Embedding, trunk of attention and feed-forward sublayers in turn, norm, head.

    | parameter | start |
    |---|---|
    | embedding, linear | normal, std 0.02 |
    | linear that writes to the residual (`output`, `down`) | normal, std 0.02 / sqrt(2 depth) |
    | norms | 1 |
    | topologies | their own `init` |

    Args:
        vocabulary_size: V.
        width: C.
        depth: blocks; each is an attention and a feed-forward sublayer.
        topology: (width, sublayer index) -> ResidualTopology.
        attention: width -> attention sublayer.
        feed_forward: width -> feed-forward sublayer.
        tied: the head is the embedding.
        recompute: of the trunk: None, "auto" or every how many sublayers the streams are kept.

    Raises:
        ValueError: a size below 1, or what the factories refuse.
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
        tied: bool = True,
        recompute: Recompute = None,
    ) -> None:
        super().__init__()
        for name, size in (("vocabulary_size", vocabulary_size), ("width", width), ("depth", depth)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.vocabulary_size, self.width, self.depth = vocabulary_size, width, depth
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.trunk = Trunk(
            (make(width) for _ in range(depth) for make in (attention, feed_forward)),
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
        for part in (self.head, *self.trunk.sublayers):
            for name, module in part.named_modules() if part is not None else ():
                if isinstance(module, nn.Linear):
                    writes = name.rpartition(".")[2] in ("output", "down")
                    nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * self.depth) if writes else 0.02)

    def forward(self, tokens: Tensor, context: Context | None = None) -> Tensor:
        """Token numbers [B, S] -> logits [B, S, V]."""
        x = self.norm(self.trunk(self.embedding(tokens), context))
        return F.linear(x, self.embedding.weight) if self.head is None else self.head(x)

    @torch.inference_mode()
    def generate(
        self,
        tokens: Tensor,
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue tokens [B, S] by sampling with a key-value cache: [B, S + max_new_tokens].

        Args:
            tokens: the prompt, [B, S], S at least 1.
            max_new_tokens: how many to add.
            temperature: divides the logits; 0 takes the most likely token.
            top_k: sample among the k most likely tokens; None among all.
            generator: source of randomness; None is torch's own.

        Raises:
            ValueError: an empty prompt, a negative temperature or count, or top_k below 1.
        """
        if tokens.dim() != 2 or tokens.shape[1] < 1:
            raise ValueError(f"tokens must be a prompt [B, S] with S at least 1, got {list(tokens.shape)}")
        if temperature < 0 or max_new_tokens < 0 or (top_k is not None and top_k < 1):
            raise ValueError(
                f"temperature and max_new_tokens must not be negative and top_k at least 1, got {temperature}, "
                f"{max_new_tokens}, {top_k}"
            )
        cache, new = KeyValueCache(), tokens
        for _ in range(max_new_tokens):
            logits = self(new, Context(cache=cache))[:, -1]
            new = _sample(logits.float(), temperature, top_k, generator)
            tokens = torch.cat([tokens, new], 1)
        return tokens


def _sample(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        smallest = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -math.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)
