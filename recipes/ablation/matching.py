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
    for _ in range(60):
        slope = counted(value + 1) - counted(value)
        if slope <= 0:
            raise UserError("the parameter count does not grow with it; name an integer such as a hidden width")
        step = round((target - counted(value)) / slope)
        if step == 0:
            break
        if value + step < 1 and value == 1:
            break
        value = max(value + step, 1)
    nearest = min(seen, key=lambda candidate: (abs(seen[candidate] - target), candidate))
    if nearest == 1 and seen[1] > target + (counted(2) - seen[1]):
        raise UserError(
            f"even at 1 the variant has {seen[1]:,} parameters, more than the baseline's {target:,}; "
            "enlarge the base configuration"
        )
    return nearest
