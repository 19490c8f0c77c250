"""What travels beside the activations: what some sublayers need, and who looks on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mhc.topology import ResidualTopology

Observer = Callable[[int, "ResidualTopology", Any, Any], None]


class KeyValueCache:
    """Keys and values of the tokens seen so far, per attention sublayer, for decoding step by step."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}

    def length(self, index: int) -> int:
        """How many tokens sublayer `index` has seen."""
        return self._seen[index][0].shape[2] if index in self._seen else 0

    def update(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append key and value [B, heads, S, D] of the new tokens of sublayer `index`; return those of all tokens."""
        if index in self._seen:
            old_key, old_value = self._seen[index]
            key, value = torch.cat([old_key, key], 2), torch.cat([old_value, value], 2)
        self._seen[index] = key, value
        return key, value


@dataclass
class Context:
    """One forward pass of a trunk.

    Attributes:
        positions: of the tokens, [S]; None counts on from those that the sublayer has in the cache.
        cache: keys and values of earlier tokens, or None.
        observe: called with (index, topology, state, carry) after each aggregate.
        index: of the sublayer that runs; the trunk sets it.
    """

    positions: Tensor | None = None
    cache: KeyValueCache | None = None
    observe: Observer | None = None
    index: int = 0
    _rotations: dict[tuple[int, int, int, float], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def rotation(self, length: int, dimension: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines [S, D] of the rotary angles, made once for all sublayers (arXiv 2104.09864)."""
        start = self.cache.length(self.index) if self.cache else 0
        key = (start, length, dimension, base)  # a context may be used again as its cache grows
        if key not in self._rotations:
            positions = self.positions
            if positions is None:
                positions = torch.arange(start, start + length, device=device)
            frequencies = base ** (-torch.arange(0, dimension, 2, device=device, dtype=torch.float32) / dimension)
            angles = positions.to(torch.float32)[:, None] * frequencies
            self._rotations[key] = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
        return self._rotations[key]
