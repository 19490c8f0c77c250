"""What travels beside the activations: what some sublayers need, and who looks on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mhc.cache import KeyValueCache

if TYPE_CHECKING:
    from mhc.routing import Routing
    from mhc.topology import ResidualTopology

Observer = Callable[[int, "ResidualTopology", Any, Any], None]


@dataclass
class Context:
    """One forward pass of a trunk: what some sublayers need, and what some give.

    Attributes:
        positions: of the tokens, [S] or [B, S]; None counts on from those that the sublayer has in the cache.
        mask: [B, tokens in the cache and new], True where a token is real and may be seen; None where all are.
        documents: [B, tokens in the cache and new], number of a token's document, which alone it sees; None where a
            row is one document.
        prefix: tokens at the start that see all of one another, for attention over a prefix and queries.
        grid: (rows, columns) that the tokens fill in raster order, for attention in windows.
        memory: [B, M, D] that cross-attention reads.
        cache: keys and values of earlier tokens, or None.
        routings: a list that each mixture of experts appends its `Routing` to; None where nobody asks.
        observe: called with (index, topology, state, carry) after each aggregate.
        index: of the sublayer that runs; the trunk sets it.
    """

    positions: Tensor | None = None
    mask: Tensor | None = None
    documents: Tensor | None = None
    prefix: int = 0
    grid: tuple[int, int] | None = None
    memory: Tensor | None = None
    cache: KeyValueCache | None = None
    routings: "list[Routing] | None" = None
    observe: Observer | None = None
    index: int = 0
    _rotations: dict[tuple[int, int, int, float], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    _visible: dict[tuple[int, int, bool], Tensor] = field(default_factory=dict, repr=False)

    def rotation(self, length: int, dimension: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines [(B,) S, D] of the rotary angles, made once for all sublayers (arXiv 2104.09864)."""
        start = self.cache.length(self.index) if self.cache else 0
        key = (start, length, dimension, base)  # a context may be used again as its cache grows
        if key not in self._rotations:
            positions = self.positions
            if positions is None:
                positions = torch.arange(start, start + length, device=device)
            frequencies = base ** (-torch.arange(0, dimension, 2, device=device, dtype=torch.float32) / dimension)
            angles = positions.to(torch.float32)[..., None] * frequencies
            angles = torch.cat([angles, angles], -1)
            self._rotations[key] = angles.cos(), angles.sin()
        return self._rotations[key]

    def visible(self, new: int, seen: int, causal: bool, device: torch.device) -> Tensor | None:
        """What the last `new` of `seen` tokens see, broadcastable to [B, H, new, seen]; None where that is everything.

        A causal token that is not real sees itself, so that its softmax is over something.

        Raises:
            ValueError: mask or documents of another number of tokens.
        """
        for name, given in (("mask is", self.mask), ("documents are", self.documents)):
            if given is not None and given.shape[-1] != seen:
                raise ValueError(f"the {name} of {given.shape[-1]} tokens, but {seen} are to be seen")
        causal = causal and new > 1
        if self.mask is None and self.documents is None and not causal:
            return None
        key = (new, seen, causal)
        if key not in self._visible:
            # one row for all tokens where all see the same
            visible = torch.ones(new if causal else 1, seen, dtype=torch.bool, device=device)
            if causal:
                visible = visible.tril(seen - new)
            if self.documents is not None:
                visible = visible & (self.documents[:, None, seen - new :, None] == self.documents[:, None, None])
            if self.mask is not None:
                visible = visible & self.mask[:, None, None]
                if causal:
                    visible = visible | torch.eye(seen, dtype=torch.bool, device=device)[seen - new :]
            self._visible[key] = visible
        return self._visible[key]
