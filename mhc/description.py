"""Components that can be written down and built again: class path and arguments, as in a YAML node.

A node is `{"class_path": "mhc.SwiGLU", "init_args": {"width": 64, "hidden": 128}}`, the form that jsonargparse reads.
Checkpoints hold the node of their model, so that loading one needs neither pickle nor the script that made it.
"""

import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

from torch import nn

Node = dict[str, Any]


class Described(nn.Module):
    """A module that remembers its class and the arguments it was made with."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keep both; the constructor runs as ever, and FSDP2 gives the module a class of its own later."""
        self = super().__new__(cls)
        self.__dict__["_made_with"] = (cls, args, kwargs)
        return self


def describe(component: Any) -> Any:
    """Write a component down: a `Described` module as its node, numbers, strings and containers of these as themselves.

    A factory is a class or a `functools.partial` of one, which is what jsonargparse makes of a node. Arguments that
    were left to their defaults stay out.

    Raises:
        TypeError: something without such a description, by name.
    """
    return _describe(component, type(component).__name__)


def build(node: Mapping[str, Any]) -> Any:
    """Make the component of a node; an argument that is annotated as a callable stays a factory.

    Nothing but a subclass of `torch.nn.Module` is ever made or called, and nothing is imported.

    Raises:
        ValueError: a node of another form, a class that cannot be found or is no module, or arguments it refuses.
    """
    return _made(_construct(node), node)


def _describe(value: Any, where: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_describe(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {key: _describe(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, type):
        return _node(value, {}, where)
    if isinstance(value, partial):
        made = next((part for part in (value.func, *value.args) if isinstance(part, type)), None)
        if made is not None:
            return _node(made, value.keywords, where)
    if isinstance(value, Described):
        made, args, kwargs = value.__dict__["_made_with"]
        names = list(inspect.signature(made).parameters)
        return _node(made, dict(zip(names, args, strict=False)) | kwargs, where)
    if isinstance(value, nn.Module):
        raise TypeError(f"{where}: {type(value).__name__} cannot be written down; make it a subclass of mhc.Described")
    name = getattr(value, "__name__", repr(value))
    raise TypeError(f"{where}: {name} cannot be written down; make it a class or functools.partial of one")


def _node(made: type, arguments: Mapping[str, Any], where: str) -> Node:
    node: Node = {"class_path": class_path(made)}
    described = {name: _describe(value, f"{where}.{name}") for name, value in arguments.items()}
    return node | ({"init_args": described} if described else {})


def class_path(made: type) -> str:
    """The shortest dotted path that leads to a class: its package's, where the package exports it."""
    parts = made.__module__.split(".")
    for length in range(1, len(parts)):
        package = importlib.import_module(".".join(parts[:length]))
        if getattr(package, made.__qualname__, None) is made:
            return f"{'.'.join(parts[:length])}.{made.__qualname__}"
    return f"{made.__module__}.{made.__qualname__}"


def _construct(node: Mapping[str, Any]) -> partial:
    if not isinstance(node, Mapping) or not isinstance(node.get("class_path"), str) or set(node) - _KEYS:
        raise ValueError(f"a component is {{class_path: ..., init_args: {{...}}}}, got {node!r}")
    path, arguments = node["class_path"], node.get("init_args") or {}
    if not isinstance(arguments, Mapping):
        raise ValueError(f"the init_args of {path} must be names and values, got {arguments!r}")
    made = _find(path)
    hints = typing.get_type_hints(made.__init__)  # type: ignore[misc]
    accepted = inspect.signature(made).parameters
    unknown = sorted(set(arguments) - set(accepted))
    if unknown:
        raise ValueError(f"{path} takes no argument {', '.join(unknown)}; it takes {', '.join(accepted)}")
    return partial(made, **{name: _value(value, _is_factory(hints.get(name))) for name, value in arguments.items()})


def _made(construct: partial, node: Mapping[str, Any]) -> nn.Module:
    try:
        inspect.signature(construct.func).bind(**construct.keywords)
    except TypeError as error:
        raise ValueError(f"{node['class_path']}: {error}") from None
    try:
        return construct()
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{node['class_path']} cannot be made of its init_args: {error}") from error


def _value(value: Any, factory: bool) -> Any:
    if isinstance(value, Mapping) and "class_path" in value:
        made = _construct(value)
        return made if factory else _made(made, value)
    if isinstance(value, Mapping):
        # JSON knows string keys alone
        return {_key(key): _value(item, factory) for key, item in value.items()}
    return [_value(item, factory) for item in value] if isinstance(value, list) else value


def _key(key: Any) -> Any:
    return int(key) if isinstance(key, str) and key.isdecimal() else key


def _find(path: str) -> type:
    module, _, name = path.rpartition(".")
    if module not in sys.modules:
        # to import is to run code, which a checkpoint must not choose
        raise ValueError(f"the class {path} cannot be found: import {module or 'its module'} first, if you trust it")
    found = getattr(sys.modules[module], name, None)
    if found is None:
        raise ValueError(f"the class {path} cannot be found: {module} has no {name}")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"{path} is no class of torch modules")
    return found


def _is_factory(hint: Any) -> bool:
    options = (hint, *typing.get_args(hint))
    return any(typing.get_origin(option) is Callable for option in options)


_KEYS = {"class_path", "init_args"}
