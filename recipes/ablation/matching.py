"""Matching of parameters: one integer of a variant, moved until it has the baseline's count."""

from collections.abc import Callable

from recipes.errors import UserError


def match(count: Callable[[int], int], start: int, target: int) -> int:
    """The integer whose count lies nearest to the target; `count` grows with it.

    Args:
        count: parameters at a value of the integer, at least 1.
        start: value to begin at.
        target: parameters wanted.

    Raises:
        UserError: where the count does not grow with the integer, or even 1 is too many.
    """
    seen: dict[int, int] = {}

    def counted(value: int) -> int:
        if value not in seen:
            seen[value] = count(value)
        return seen[value]

    value = max(start, 1)
    slope = float(counted(value + 1) - counted(value))
    if slope <= 0:
        raise UserError("the parameter count does not grow with it; name an integer such as a hidden width")
    low, high = 0, 0  # the largest integer with too few parameters and the smallest with enough; 0 for none yet
    while high != low + 1:
        if counted(value) < target:
            low = value
        else:
            high = value
        guess = value + round((target - counted(value)) / slope)
        if guess == value:
            guess += 1 if value == low else -1
        if high and not low < guess < high:
            guess = (low + high) // 2 if high > low + 1 else high
        previous, value = value, guess
        if value != previous and value not in (low, 0):
            slope = max((counted(value) - counted(previous)) / (value - previous), 1e-9)
    nearest = min(seen, key=lambda candidate: (abs(seen[candidate] - target), candidate))
    if nearest == 1 and seen[1] > target + (counted(2) - seen[1]):
        raise UserError(
            f"even at 1 the variant has {seen[1]:,} parameters, more than the baseline's {target:,}; "
            "enlarge the base configuration"
        )
    return nearest
