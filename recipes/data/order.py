"""Orders without end that are worked out for one place at a time: nothing is stored, and nothing is consumed."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

ROUNDS = 6
WORD = (1 << 64) - 1
# of a stretch of numbers in which every share is kept
STRETCH = 64


def mixed(*numbers: int) -> int:
    """64 bits that depend on all the numbers in their order (SplitMix64, Steele et al. 2014)."""
    state = 0
    for number in numbers:
        state = (state ^ number) + 0x9E3779B97F4A7C15 & WORD
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & WORD
        state = (state ^ state >> 27) * 0x94D049BB133111EB & WORD
        state ^= state >> 31
    return state


def shuffled(place: int, count: int, *key: int) -> int:
    """What stands at a place of the numbers below `count` when they are shuffled, in an order that the key chooses.

    A Feistel network over the least even number of bits, gone through again until the result is below `count`
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").

    Raises:
        ValueError: a place that is none.
    """
    if not 0 <= place < count:
        raise ValueError(f"there is no place {place} among {count}")
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    keys = [mixed(*key, number) for number in range(ROUNDS)]
    while True:
        left, right = place >> half, place & mask
        for number in keys:
            left, right = right, left ^ (mixed(number, right) & mask)
        place = left << half | right
        if place < count:
            return place


class Shares:
    """Deal the numbers 0, 1, 2, ... to several kinds by their weights.

    In every stretch of numbers each kind has its share, to two numbers; within it the order is shuffled.

    Args:
        weights: of the kinds; their sum is of no matter.
        seed: of the order.

    Raises:
        ValueError: no weights, or one that is not positive.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        if not weights or not all(weight > 0 for weight in weights):
            raise ValueError(f"weights must be positive, got {list(weights)}")
        total = sum(weights)
        self.seed = seed
        self._upto = [0.0, *(weight / total for weight in accumulate(weights))]
        self._upto[-1] = 1.0
        # long enough for each kind to come up
        self._stretch = max(STRETCH, int(4 * total / min(weights)) + 1)
        self._latest: tuple[int, list[int]] = (-1, [])

    def deal(self, number: int) -> tuple[int, int]:
        """The kind of a number, and how many before it are of that kind."""
        stretch, place = divmod(number, self._stretch)
        if stretch != self._latest[0]:
            self._latest = stretch, self._kinds(stretch)
        kinds, begins = self._latest[1], self._dealt(stretch)
        kind = kinds[place]
        return kind, begins[kind + 1] - begins[kind] + kinds[:place].count(kind)

    def _kinds(self, stretch: int) -> list[int]:
        """Of the numbers of a stretch."""
        begins, ends = self._dealt(stretch), self._dealt(stretch + 1)
        # kind k has the places from firsts[k] on, before they are shuffled
        firsts = [end - begin for begin, end in zip(begins, ends, strict=True)]
        places = (shuffled(place, self._stretch, self.seed, stretch) for place in range(self._stretch))
        return [bisect_right(firsts, place) - 1 for place in places]

    def _dealt(self, stretches: int) -> list[int]:
        """How many numbers went to the first 0, 1, ... kinds in so many stretches."""
        return [round(stretches * self._stretch * share) for share in self._upto]
