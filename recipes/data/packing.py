"""Samples of different lengths -> as few rows as a simple rule finds."""

from collections.abc import Sequence


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which samples share a row: the longest first, each into the first row with room (Johnson 1973).

    Args:
        lengths: of the samples.
        capacity: of a row.

    Returns:
        Numbers of the samples of each row, ascending, and rows by their first.

    Raises:
        ValueError: a sample that is longer than a row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for sample in sorted(range(len(lengths)), key=lambda sample: (-lengths[sample], sample)):
        length = lengths[sample]
        if length > capacity:
            raise ValueError(f"a sample of {length} tokens is longer than a row of {capacity}")
        row = next((row for row, left in enumerate(room) if length <= left), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(capacity)
        rows[row].append(sample)
        room[row] -= length
    return sorted(sorted(row) for row in rows)
