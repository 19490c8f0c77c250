"""The parser's long complaints, condensed to one sentence that keeps the key's path and adds what would be right."""

import importlib
import inspect
import re
import traceback
from collections.abc import Callable
from typing import Any

from recipes.configuration import Tree, lookup, suggestion

_KEY = re.compile(r'Parser key "([^"]+)":')
_CLASS = re.compile(r"Problem with given class_path '([^']+)':")
_VALUE = re.compile(r"\.? Got value: .*", re.S)


def condense(message: str, tree: Tree) -> str:
    """One sentence `key: what is wrong; what would be right` out of a complaint of jsonargparse.

    Args:
        message: text of its ArgumentError, of many lines.
        tree: the configuration that was parsed, for naming classes and their options.
    """
    path, reason = _innermost(message)
    full = _full(path)
    owner = _class_path(tree, full)
    missing = re.search(r"the following arguments are required: (.+?)\.?(?: Got value: .*)?$", reason)
    if missing:
        keys = [f"{full}.init_args.{key}" if full else key for key in missing[1].split(", ")]
        return f"{', '.join(keys)}: missing or null; {owner or 'the configuration'} needs a value there"
    inside = "." in full
    return f"{full}: {_explain(reason, owner, inside)}" if full else _explain(reason, owner, inside)


def _innermost(message: str) -> tuple[list[str], str]:
    """The keys down to the deepest complaint, and that complaint."""
    path: list[str] = []
    depths: list[int] = []
    best: tuple[int, list[str], str] = (-1, [], "")
    for line in message.splitlines():
        depth = len(line) - len(line.lstrip(" -"))
        text = line.strip(" -")
        if not text or text.startswith(("Given value", "Subtypes:", "Errors:", "Does not validate")):
            continue
        while depths and depths[-1] >= depth:
            depths.pop()
            path.pop()
        keys = _KEY.findall(text)
        if keys or _CLASS.search(text):
            # a factory names its class's options without their `init_args`
            factory = "init_args." if text.startswith("Type ") else ""
            path.append(factory + keys[-1] if keys else "init_args")
            depths.append(depth)
        rest = _CLASS.sub("", _KEY.sub("", text)).strip()
        hollow = not rest or rest.endswith("callable class:") or "<class 'NoneType'>" in rest
        if not hollow and depth > best[0]:
            best = (depth, list(path), rest)
    return (best[1], best[2]) if best[2] else (path, " ".join(message.split())[:300])


def _full(path: list[str]) -> str:
    """Dotted path; a class's own complaint belongs to its node, a complaint about one of its options to the option."""
    return ".".join(path[:-1] if path and path[-1] == "init_args" else path)


def _class_path(tree: Tree, full: str) -> str | None:
    try:
        node = lookup(tree, full) if full else tree
    except KeyError:
        return None
    return node if isinstance(node, str) else node.get("class_path") if isinstance(node, dict) else None


def _explain(reason: str, owner: str | None, inside: bool) -> str:
    value = re.search(r"Got value: ('?)(.*?)\1\.?(?: Got value: .*)?$", reason)
    bare = _VALUE.sub("", reason)
    bare = re.sub(r"^Type .* expects a function or a callable class: ", "", bare).strip(" .")
    rules: list[tuple[str, Callable[[re.Match], str]]] = [
        (
            r"module '([^']+)' has no attribute '([^']+)'",
            lambda m: f"unknown class '{m[1]}.{m[2]}'; {suggestion(m[2], _classes(m[1])) or f'see what {m[1]} offers'}",
        ),
        (
            r"No module named '([^']+)'",
            lambda m: f"unknown class: there is no module '{m[1]}'; check the spelling of class_path",
        ),
        (
            r"Expected '([^']+)' to be a subclass of <class '([^']+)'>",
            lambda m: f"'{m[1]}' is not a {m[2]}; give a class that is",
        ),
        (r"Expected '([^']+)' to be .*return.*", lambda m: f"'{m[1]}' does not make what is needed here"),
        (
            r"Option '([^']+)' is not accepted",
            lambda m: (
                f"{owner or 'the configuration'} does not accept '{m[1]}'; "
                f"{suggestion(m[1], [name for name in _options(owner, inside) if name != m[1]]) or 'remove it'}"
            ),
        ),
        (
            r"Group '([^']+)' does not accept option '([^']+)'",
            lambda m: f"{m[1]} does not accept '{m[2]}'; {suggestion(m[2], _group(m[1])) or 'remove it'}",
        ),
        (r"Expected an? <class '([^']+)'>", lambda m: f"must be {m[1]}" + (f", not '{value[2]}'" if value else "")),
        (
            r"unrecognized arguments: (.+)",
            lambda m: f"unknown argument {m[1]}; python -m recipes.fit --help lists them",
        ),
    ]
    for pattern, tell in rules:
        match = re.search(pattern, bare)
        if match:
            return tell(match)
    told = f"{bare} (got '{value[2]}')" if value and len(value[2]) < 60 else bare
    return told if len(told) <= 300 else told[:297] + "..."


def _classes(module: str) -> list[str]:
    try:
        found = importlib.import_module(module)
    except ImportError:
        return []
    return [name for name, item in vars(found).items() if inspect.isclass(item) and not name.startswith("_")]


def _options(class_path: str | None, inside: bool) -> list[str]:
    if class_path is None or "." not in class_path:
        return []
    module, name = class_path.rsplit(".", 1)
    try:
        parameters = _parameters(getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError, TypeError, ValueError):
        return []
    hidden = {"width", "index"} if inside else set()  # a factory is given these by the model
    return [parameter.name for parameter in parameters if parameter.name not in hidden]


def _parameters(made: Any) -> list[inspect.Parameter]:
    """What a class takes; where it passes **options on, what the class before it takes as well."""
    named = {}
    for kind in made.__mro__ if inspect.isclass(made) else [made]:
        if "__init__" in vars(kind) or kind is made:
            found = inspect.signature(kind).parameters.values()
            named |= {parameter.name: parameter for parameter in found if parameter.name not in named}
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in found):
                break
    return [parameter for parameter in named.values() if parameter.kind is not parameter.VAR_KEYWORD]


def _group(key: str) -> list[str]:
    from lightning.pytorch import Trainer

    return list(inspect.signature(Trainer).parameters) if key == "trainer" else []


def blame(error: BaseException, tree: Tree) -> str | None:
    """Path of the component whose constructor raised the error, None where no component of the tree did."""
    raisers = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    for raiser in reversed([raiser for raiser in raisers if raiser is not None]):
        for path in _component_paths(tree, type(raiser)):
            return path
    return None


def _component_paths(node: Any, wanted: type, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    found = []
    name = node.get("class_path")
    if isinstance(name, str) and prefix and name.rsplit(".", 1)[-1] == wanted.__name__:
        found.append(prefix)
    for key, value in node.items():
        found += _component_paths(value, wanted, f"{prefix}.{key}" if prefix else key)
    return found
