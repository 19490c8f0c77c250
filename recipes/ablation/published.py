"""Numbers that others published for variants of an ablation, as its YAML file holds them."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
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
class Number:
    """What was published of one variant: one run's number, the range of several, or the mean and deviation of n.

    Attributes:
        variant: of the ablation.
        measure: a key of `MEASURES`.
        text: as it was printed.
        low: end of what rounds to the number, or of the range; a mean less its deviation.
        high: the other end.
        mean: of n runs, NaN where it is not known.
        sd: sample standard deviation of these.
        n: 0 where mean and sd are not known.
        single: whether it is the number of one run.
    """

    variant: str
    measure: str
    text: str
    low: float
    high: float
    mean: float = math.nan
    sd: float = math.nan
    n: int = 0
    single: bool = False


@dataclass(frozen=True)
class Published:
    """The node `published:` of an ablation: where the numbers are from, and the numbers."""

    source: str
    numbers: tuple[Number, ...]

    @classmethod
    def read(cls, node: Any, variants: Collection[str], refuse: Callable[[str], Exception]) -> "Published | None":
        """Take the node `{source: text, values: {variant: {measure: number}}}`; None where there is none.

        A number is written as it was printed, quoted where it ends in zeros ("1.00"), or as `{low: , high: }`, or as
        `{mean: , sd: , n: }`.

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
        numbers = []
        for variant, measures in node["values"].items():
            where = f".values.{variant}"
            if str(variant) not in variants:
                raise refuse(f"{where}: there is no such variant; {suggestion(str(variant), variants)}")
            if not isinstance(measures, dict):
                raise refuse(f"{where}: must be a mapping of measures to numbers")
            for measure, value in measures.items():
                if measure not in MEASURES:
                    raise refuse(f"{where}.{measure}: there is no such measure; {suggestion(str(measure), MEASURES)}")
                number = _number(str(variant), measure, value)
                if number is None:
                    raise refuse(f"{where}.{measure}: must be {_FORMS}, not {value!r}")
                numbers.append(number)
        if not numbers:
            raise refuse(".values: holds no number; give one, or leave `published` out")
        return cls(node["source"], tuple(numbers))


def _number(variant: str, measure: str, value: Any) -> Number | None:
    if not isinstance(value, dict):
        printed = _decimal(value)
        if printed is None:
            return None
        half = 0.5 * 10.0 ** int(printed.as_tuple().exponent)
        return Number(variant, measure, f"{printed:,}", float(printed) - half, float(printed) + half, single=True)
    if not all(type(part) in (int, float) and _decimal(part) is not None for part in value.values()):
        return None
    if set(value) == {"low", "high"} and value["low"] <= value["high"]:
        return Number(variant, measure, f"{value['low']:,} to {value['high']:,}", value["low"], value["high"])
    if set(value) == {"mean", "sd", "n"} and value["sd"] > 0 and type(value["n"]) is int and value["n"] > 1:
        mean, sd, n = value["mean"], value["sd"], value["n"]
        return Number(variant, measure, f"{mean:,} ± {sd:,} (n = {n})", mean - sd, mean + sd, mean, sd, n)
    return None


def _decimal(value: Any) -> Decimal | None:
    """The digits of a number or of a quoted one; None for anything else."""
    try:
        printed = (
            Decimal(value if isinstance(value, str) else repr(value)) if type(value) in (str, int, float) else None
        )
    except InvalidOperation:
        return None
    return printed if printed is not None and printed.is_finite() and abs(printed) < Decimal("1e300") else None
