"""Numbers and tables as a reader wants them."""

import math
from collections.abc import Callable, Sequence

NONE = "–"


def significant(value: float, digits: int = 3) -> str:
    """A number to some significant digits, with thousands separators, without an exponent up to a million."""
    if not math.isfinite(value):
        return NONE if math.isnan(value) else "infinite"
    if value == 0 or (value == round(value) and abs(value) < 1e6):
        return f"{value:,.0f}"
    magnitude = math.floor(math.log10(abs(value)))
    if not -4 <= magnitude < 6:
        return f"{value:.{digits - 1}e}"
    places = digits - 1 - magnitude
    return f"{round(value, places):,.{max(0, places)}f}"


def whole(value: float) -> str:
    """A count, with all its digits."""
    return NONE if math.isnan(value) else f"{value:,.0f}"


def loss(value: float) -> str:
    """A loss in nats."""
    return NONE if math.isnan(value) else f"{value:.4f}"


def signed(value: float) -> str:
    """A difference of losses, with its sign."""
    if math.isnan(value):
        return NONE
    return f"{value:+.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:+.1e}"


def percent(value: float) -> str:
    """A share in per cent."""
    return NONE if math.isnan(value) else f"{100 * value:.1f} %"


def gain(value: float) -> str:
    """A signal gain: exactly 1, close to 1 with its third decimal, or three digits."""
    if value == 1:
        return "1"
    return f"{value:.3f}" if abs(value - 1) < 0.1 else significant(value)


def extent(values: Sequence[float], show: Callable[[float], str]) -> str:
    """Mean [min to max], or the one value there is."""
    finite = [value for value in values if not math.isnan(value)]
    if not finite:
        return NONE
    mean, low, high = show(sum(finite) / len(finite)), show(min(finite)), show(max(finite))
    return mean if low == high == mean else f"{mean} [{low} to {high}]"


def p_value(p: float) -> str:
    """`p = 0.012`, or `p < 0.001`."""
    return "no p" if math.isnan(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def p_column(p: float) -> str:
    """The same for a column that is named p: `0.012`, or `< 0.001`."""
    return p_value(p).removeprefix("p = ").removeprefix("p ")


def count(number: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, numbers to the right."""
    lines = [list(header), [":--"] + ["--:"] * (len(header) - 1), *[list(row) for row in rows]]
    return "\n".join("| " + " | ".join(str(item).replace("|", "\\|") for item in line) + " |" for line in lines)
