"""Configurations as plain trees: read a YAML file, set a node by its dotted path, compare two of them."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recipes.errors import UserError

COMPONENT_KEYS = ("class_path", "init_args", "dict_kwargs")
Tree = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A YAML file as it was read: its path, its text, its tree and the question its first comment asks."""

    path: Path
    text: str
    tree: Tree
    question: str

    @property
    def stem(self) -> str:
        """The file's name without folder and ending."""
        return self.path.stem


class _Loader(yaml.SafeLoader):
    """YAML as Lightning reads it (1e-3 is a number, dates stay text), where a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            name = key if isinstance(key, (str, int, float, bool)) or key is None else str(key)
            if str(name) in seen:
                raise _DuplicateKeyError(
                    f"line {line}: key '{name}' was already given in line {seen[str(name)]}; "
                    "rename or remove one of them"
                )
            seen[str(name)] = line
        return super().construct_mapping(node, deep)


class _DuplicateKeyError(yaml.YAMLError):
    pass


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in rules if not tag.endswith((":float", ":timestamp"))]
    for letter, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*(?:[eE][-+]?\d+)?"
        r"|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def plain(node: Any) -> Any:
    """Copy of a tree in which no two places share an object, as YAML aliases do."""
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [plain(value) for value in node]
    return node


def parse_yaml(text: str) -> Any:
    """The tree of a YAML text; raises yaml.YAMLError, also for a key given twice."""
    return plain(yaml.load(text, Loader=_Loader))


def to_yaml(tree: Tree) -> str:
    """A tree as YAML text, keys in their order."""
    return yaml.safe_dump(tree, sort_keys=False)


def read(path: str | Path) -> Source:
    """Read a configuration file; raises UserError that names the file and line of what is wrong."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        others = sorted(str(other) for folder in {path.parent, Path("ablations")} for other in folder.glob("*.yaml"))
        raise UserError(
            f"{path}: no such file; {suggestion(str(path), others) or 'give an existing YAML file'}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    try:
        tree = parse_yaml(text)
    except _DuplicateKeyError as error:
        raise UserError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or str(error)
        raise UserError(f"{path}: {place}not valid YAML: {reason}; check indentation, colons and brackets") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: holds no configuration; it needs `model:`, `data:` and `trainer:` keys")
    return Source(path, text, tree, question(text))


def question(text: str) -> str:
    """The question a file opens with: its first comment lines, up to the command."""
    lines = []
    for line in text.splitlines():
        words = line.lstrip("#").strip()
        if not line.startswith("#") or not words or words.startswith(("python ", "make ")):
            break
        lines.append(words)
    return " ".join(lines)


def suggestion(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for the known name that is closest, else the list of them, else nothing."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"there is {', '.join(known)}" if 0 < len(known) <= 16 else ""


def full_path(tree: Tree, path: str) -> str:
    """The path with the `init_args` that it left out: model.topology -> model.init_args.topology."""
    node: Any = tree
    keys: list[str] = []
    for key in path.split("."):
        if isinstance(node, str) and "." in node:
            node = {"class_path": node}
        if isinstance(node, dict) and "class_path" in node and key not in COMPONENT_KEYS:
            keys.append("init_args")
            node = node.get("init_args") or {}
        keys.append(key)
        node = node.get(key) if isinstance(node, dict) else None
    return ".".join(keys)


def lookup(tree: Tree, path: str) -> Any:
    """The node at a dotted path; raises KeyError where there is none."""
    node: Any = tree
    for key in full_path(tree, path).split("."):
        if not isinstance(node, dict) or key not in node:
            raise KeyError(path)
        node = node[key]
    return node


def place(tree: Tree, path: str, value: Any, groups: Iterable[str] = ()) -> None:
    """Put a value at a dotted path, in place of the whole node that was there: nothing of it is kept.

    Args:
        tree: changed in place.
        path: its last key may be new (the parser judges it); its parents exist, or are one of `groups`.
        value: a scalar, a list, or a whole node (`class_path` and `init_args`).
        groups: top-level keys that a configuration may leave out.
    """
    keys = full_path(tree, path).split(".")
    node = tree
    for depth, key in enumerate(keys[:-1]):
        if key not in node:
            if key != "init_args" and not (depth == 0 and key in groups):
                known = list(node if depth else {*node, *groups})
                raise UserError(f"the configuration has no '{'.'.join(keys[: depth + 1])}'; {suggestion(key, known)}")
            node[key] = {}
        if isinstance(node[key], str) and "." in node[key]:
            node[key] = {"class_path": node[key]}
        if node[key] is None:
            node[key] = {}
        if not isinstance(node[key], dict):
            raise UserError(f"the configuration has no '{path}': '{'.'.join(keys[: depth + 1])}' is {node[key]!r}")
        node = node[key]
    node[keys[-1]] = plain(value)


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every (dotted path, scalar or list) of a tree."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree


def differences(old: Tree, new: Tree) -> list[tuple[str, Any, Any]]:
    """(path, old, new) of what both trees say and say differently; the folder that they name is no difference."""
    before, after = dict(leaves(old)), dict(leaves(new))
    found = [
        (path, before[path], after[path])
        for path in before
        if path in after and before[path] != after[path] and path != "trainer.default_root_dir"
    ]
    return sorted(found, key=lambda entry: not entry[0].endswith("class_path"))
