"""The goals of the kernels, each with the number that decides it."""

from collections.abc import Callable, Sequence
from typing import Any

APPLY = 85.0  # percent of copy bandwidth, aggregate and combine
COEFFICIENTS = 1.3  # times the time that the bytes take at copy bandwidth
BOUNDARY = 1.3  # times faster than Liger's chain
DENSE = 1.0  # times as fast as attention with a dense mask

Row = dict[str, Any]


def report(rows: Sequence[Row]) -> str:
    """A line for each goal: reached, not reached (and where it is missed most), or not measured."""
    if any(row["device"] != "cuda" for row in rows):
        return "goals: not measured, they are a GPU's"
    lines = []
    for way in ("forward", "backward"):
        for operation in ("aggregate", "combine"):
            lines.append(
                _line(
                    f"{operation} {way}: at least {APPLY:.0f} % of copy bandwidth",
                    _chosen(rows, operation, way),
                    lambda row: row["percent_of_copy"],
                    lambda value: value >= APPLY,
                    min,
                )
            )
        lines.append(
            _line(
                f"hyper_coefficients {way}: at most {COEFFICIENTS} x its bytes at copy bandwidth",
                _chosen(rows, "hyper_coefficients", way),
                lambda row: 100 / row["percent_of_copy"],
                lambda value: value <= COEFFICIENTS,
                max,
            )
        )
        lines.append(
            _line(
                f"combine_aggregate {way}: at least {BOUNDARY} x as fast as Liger's chain",
                _chosen(rows, "combine_aggregate", way),
                lambda row: row.get("over_liger"),
                lambda value: value >= BOUNDARY,
                min,
            )
        )
        lines.append(
            _line(
                f"prefix_attention {way}: never slower than with a dense mask",
                _chosen(rows, "prefix_attention", way, n=1),
                lambda row: row.get("over_eager"),
                lambda value: value >= DENSE,
                min,
            )
        )
    return "\n".join(["goals, by the size that is worst, streams at n = 4:", *lines])


def _chosen(rows: Sequence[Row], operation: str, way: str, n: int = 4) -> list[Row]:
    wanted = {"operation": operation, "direction": way, "form": "", "n": n}
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def _line(
    goal: str,
    rows: Sequence[Row],
    value: Callable[[Row], float | None],
    reached: Callable[[float], bool],
    worst: Callable[..., tuple[float, Row]],
) -> str:
    measured = [(number, row) for row in rows if "us" in row and (number := value(row)) is not None]
    if not measured:
        return f"  not measured  {goal}"
    number, row = worst(measured, key=lambda pair: pair[0])
    state = "reached" if reached(number) else "not reached"
    missing = len(rows) - len(measured)
    if missing and state == "reached":
        state = "incomplete"
    fine = sum(reached(number) for number, _ in measured)
    counts = f"{fine} of {len(rows)} sizes" + (f", {missing} not measured" if missing else "")
    return f"  {state:12}  {goal}: {number:.3g} at {row['tokens']} x {row['width']} ({counts})"
