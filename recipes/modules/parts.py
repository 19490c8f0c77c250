"""Parts of a network, chosen by their names: which are frozen, and at which rate the others learn."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from mhc import parameter_groups


def within(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name, or that of something it is a part of, is one of the patterns (fnmatch)."""
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*") for pattern in patterns)


def require_used(patterns: Iterable[str], names: Iterable[str], argument: str) -> None:
    """Raise a ValueError for a pattern that no name matches."""
    names = list(names)
    for pattern in patterns:
        if not any(within(name, [pattern]) for name in names):
            parts = dict.fromkeys(".".join(name.split(".")[:2]) for name in names if name)
            raise ValueError(f"{argument} names '{pattern}', which the network has not; it has {', '.join(parts)}")


def freeze(network: nn.Module, patterns: Sequence[str]) -> None:
    """Take the parameters of the parts out of training; what only they stand before then keeps no graph."""
    for name, parameter in network.named_parameters():
        if within(name, patterns):
            parameter.requires_grad_(False)


def rest(network: nn.Module, patterns: Sequence[str]) -> None:
    """Put frozen parts into evaluation mode, but for the adapters that train in them."""
    for name, module in network.named_modules():
        if within(name, patterns) and "lora_" not in name:
            module.training = False


def rate_groups(network: nn.Module, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """The groups of `mhc.parameter_groups`, each split by the first pattern that names a parameter.

    A group with a rate of its own has `lr` and, as `name`, its pattern. Those without come first; none is empty.

    Args:
        network: whose trainable parameters are grouped.
        rates: pattern -> learning rate.

    Raises:
        ValueError: a pattern that is the first of no trainable parameter.
    """
    chosen: dict[int, str] = {}
    for name, parameter in network.named_parameters():
        pattern = next((pattern for pattern in rates if within(name, [pattern])), None)
        if pattern is not None and parameter.requires_grad:
            chosen[id(parameter)] = pattern
    for pattern in rates:
        if pattern not in chosen.values():
            raise ValueError(f"model.learning_rates names '{pattern}', under which nothing is trained: remove it")
    groups = []
    for pattern in (None, *rates):
        own = {} if pattern is None else {"lr": rates[pattern], "name": pattern}
        for group in parameter_groups(network):
            members = [parameter for parameter in group["params"] if chosen.get(id(parameter)) == pattern]
            if members:
                groups.append(group | own | {"params": members})
    return groups
