"""Numbers that others published for variants of an ablation, as its YAML file holds them."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from recipes.configuration import suggestion

# what a cell measures at its end, and how a report calls it
MEASURES = {
    "val_loss": "validation loss",
    "val_accuracy": "token accuracy",
    "val_order_accuracy": "order accuracy",
    "gain_forward": "forward gain, end",
    "gain_forward_max": "forward gain, largest",
    "gain_backward": "backward gain, end",
    "gain_backward_max": "backward gain, largest",
}
_FORMS = "a number, {low: , high: } or {mean: , sd: , n: }"


@dataclass(frozen=True)
class Figure:
    """One published number: an interval, or the mean of n runs with its sample standard deviation.

    A single number stands for the interval of what rounds to it.
    """

    variant: str
    measure: str
    text: str
    low: float
    high: float
    mean: float = math.nan
    sd: float = math.nan
    n: int = 0


@dataclass(frozen=True)
class Published:
    """The node `published:` of an ablation: where the numbers are from, and the numbers."""

    source: str
    figures: tuple[Figure, ...]

    @classmethod
    def read(cls, node: Any, variants: Collection[str], refuse: Callable[[str], Exception]) -> "Published | None":
        """Take the node `{source: text, values: {variant: {measure: number}}}`; None where there is none.

        A number is written as it was printed, or `{low: , high: }`, or `{mean: , sd: , n: }`.

        Args:
            node: as YAML has it.
            variants: names that may be in it.
            refuse: makes an error of a message that begins with the key's path.

        Raises:
            Exception: what `refuse` makes, for a key or a value that is wrong.
        """
        if node is None:
            return None
        whole = isinstance(node, dict) and set(node) == {"source", "values"}
        if not whole or not isinstance(node["source"], str) or not isinstance(node["values"], dict):
            raise refuse(": must be {source: text, values: {variant: {measure: number}}}")
        figures = []
        for variant, measures in node["values"].items():
            where = f".values.{variant}"
            if str(variant) not in variants:
                raise refuse(f"{where}: there is no such variant; {suggestion(str(variant), variants)}")
            if not isinstance(measures, dict):
                raise refuse(f"{where}: must be a mapping of measures to numbers")
            for measure, value in measures.items():
                if measure not in MEASURES:
                    raise refuse(f"{where}.{measure}: there is no such measure; {suggestion(str(measure), MEASURES)}")
                figure = _figure(str(variant), measure, value)
                if figure is None:
                    raise refuse(f"{where}.{measure}: must be {_FORMS}, not {value!r}")
                figures.append(figure)
        return cls(node["source"], tuple(figures))


def _figure(variant: str, measure: str, value: Any) -> Figure | None:
    if _is_number(value):
        half = 0.5 * 10.0 ** int(Decimal(repr(value)).as_tuple().exponent)
        return Figure(variant, measure, f"{value:,}", value - half, value + half)
    if not isinstance(value, dict) or not all(_is_number(part) for part in value.values()):
        return None
    if set(value) == {"low", "high"} and value["low"] <= value["high"]:
        return Figure(variant, measure, f"{value['low']:,} to {value['high']:,}", value["low"], value["high"])
    if set(value) == {"mean", "sd", "n"} and value["sd"] > 0 and type(value["n"]) is int and value["n"] > 1:
        mean, sd, n = value["mean"], value["sd"], value["n"]
        return Figure(variant, measure, f"{mean:,} ± {sd:,} (n = {n})", mean - sd, mean + sd, mean, sd, n)
    return None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
