"""The differences that an ablation's file names, so that no others are tested."""

from collections.abc import Callable, Collection
from typing import Any

from recipes.configuration import suggestion

Pairs = tuple[tuple[str, str], ...]


def read_comparisons(node: Any, variants: Collection[str], refuse: Callable[[str], Exception]) -> Pairs:
    """Take the node `[[variant, reference], ...]`; empty where there is none.

    Args:
        node: as YAML has it.
        variants: names that may be in it.
        refuse: makes an error of a message that begins with the key's path.

    Raises:
        Exception: what `refuse` makes, for a pair that is wrong or there twice.
    """
    if node is None:
        return ()
    form = "must be a list of pairs [variant, reference]"
    if not isinstance(node, list) or not node:
        raise refuse(f": {form}, not {node!r}")
    found: list[tuple[str, str]] = []
    for number, pair in enumerate(node):
        where = f"[{number}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise refuse(f"{where}: {form}, not {pair!r}")
        variant, reference = (str(name) for name in pair)
        for name in (variant, reference):
            if name not in variants:
                raise refuse(f"{where}: there is no variant '{name}'; {suggestion(name, variants)}")
        if variant == reference or {(variant, reference), (reference, variant)} & set(found):
            raise refuse(
                f"{where}: {variant} and {reference} are {'the same' if variant == reference else 'there twice'}"
            )
        found.append((variant, reference))
    return tuple(found)
