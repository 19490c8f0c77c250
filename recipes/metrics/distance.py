"""Edit distances between texts."""

from collections.abc import Hashable, Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist


def edits(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Levenshtein distance: insertions, deletions and replacements that turn one into the other."""
    return Levenshtein.distance(first, second)


def normalised_distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Edits / longer length, in [0, 1]; 0 for two empty ones."""
    longest = max(len(first), len(second))
    return edits(first, second) / longest if longest else 0.0


def distance_matrix(first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """Normalised distances [len(first), len(second)] in fp64."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    longest = np.maximum.outer([len(text) for text in first], [len(text) for text in second])
    return cdist(first, second, scorer=Levenshtein.distance, dtype=np.int32) / np.maximum(longest, 1)


def occurs(piece: str, text: str, tolerance: float, *, inclusive: bool = False) -> bool:
    """Whether some window of the text, as long as the piece, is within `tolerance` x length edits of it.

    Args:
        piece: not empty.
        text: at least as long; False otherwise.
        tolerance: edits a character.
        inclusive: <= in place of <.
    """
    length = len(piece)
    if not length or len(text) < length:
        return False
    start = 0
    while start <= len(text) - length:
        found = edits(text[start : start + length], piece)
        if found / length < tolerance or (inclusive and found / length <= tolerance):
            return True
        # a step of the window changes the distance by 2 at most
        start += max(1, int((found - tolerance * length) / 2))
    return False
