"""Chance that depends on a name alone, on every machine and version."""

import hashlib
import random
from collections.abc import MutableSequence, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class Draws:
    """Random numbers that are the same wherever the same names are given.

    Only `random.random` is built on, the one sequence that Python promises never to change.

    Args:
        *names: what the numbers depend on, such as a seed and an index.
    """

    def __init__(self, *names: Any) -> None:
        text = "\0".join(map(str, names))
        self._random = random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")).random

    def chance(self, probability: float) -> bool:
        """Whether something of that probability happens."""
        return self._random() < probability

    def number(self, low: float, high: float) -> float:
        """A number from `low` to below `high`."""
        return low + (high - low) * self._random()

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both possible."""
        return low + int((high - low + 1) * self._random())

    def choice(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[int(len(items) * self._random())]

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Put items into another order, each as likely."""
        for place in range(len(items) - 1, 0, -1):
            other = self.integer(0, place)
            items[place], items[other] = items[other], items[place]
