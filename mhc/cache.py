"""Keys and values of the tokens seen so far."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class _Held:
    """Keys and values [B, heads, capacity, D] of one sublayer, of which the first `length` tokens are written."""

    key: Tensor
    value: Tensor
    length: int


class KeyValueCache:
    """Keys and values of the tokens seen so far, per attention sublayer, for decoding step by step.

    Without gradients new tokens are written into storage that doubles when it is full, so that a token costs no copy of
    those before it. With gradients they are concatenated, since the graph has saved what is already there.
    """

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}

    def length(self, index: int) -> int:
        """How many tokens sublayer `index` has seen."""
        return self._held[index].length if index in self._held else 0

    def update(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append key and value [B, heads, S, D] of the new tokens of sublayer `index`; return those of all tokens.

        Raises:
            ValueError: new tokens of another batch, other heads or another dtype than those that are held.
        """
        held = self._held.get(index)
        if held is None:
            self._held[index] = _Held(key, value, key.shape[2])
            return key, value
        for new, old in ((key, held.key), (value, held.value)):
            _require_alike(index, new, old)
        seen = held.length + key.shape[2]
        if torch.is_grad_enabled():
            held.key = torch.cat([held.key[:, :, : held.length], key], 2)
            held.value = torch.cat([held.value[:, :, : held.length], value], 2)
        else:
            # a tensor of inference mode cannot be written to outside of it
            sealed = held.key.is_inference() and not torch.is_inference_mode_enabled()
            if sealed or seen > held.key.shape[2]:
                held.key, held.value = (_grown(old, held.length, seen) for old in (held.key, held.value))
            held.key[:, :, held.length : seen] = key
            held.value[:, :, held.length : seen] = value
        held.length = seen
        return held.key[:, :, :seen], held.value[:, :, :seen]


def _grown(old: Tensor, length: int, seen: int) -> Tensor:
    batch, heads, capacity, width = old.shape
    new = old.new_empty(batch, heads, max(2 * capacity, seen), width)
    new[:, :, :length] = old[:, :, :length]
    return new


def _require_alike(index: int, new: Tensor, old: Tensor) -> None:
    batch, heads, _, width = old.shape
    if new.dtype != old.dtype or (new.shape[0], new.shape[1], new.shape[3]) != (batch, heads, width):
        raise ValueError(
            f"the cache of sublayer {index} holds [{batch}, {heads}, tokens, {width}] in {old.dtype}, got "
            f"{list(new.shape)} in {new.dtype}; use a new cache for another batch"
        )
