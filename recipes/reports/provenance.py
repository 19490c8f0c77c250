"""Where an ablation's numbers come from: commits, hardware, packages, corpus and dates of its cells."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from recipes.reports.cells import Ablation, Cell
from recipes.reports.format import count, listed

PACKAGES = ("torch", "triton", "lightning", "jsonargparse", "torchdata", "numpy", "scipy", "pandas")


def describe(ablation: Ablation) -> str:
    """A bullet for each fact; where cells differ, one for each value, with the cells that have it."""
    cells = [cell for cell in ablation.cells if cell.environment]
    lines = []
    for name, fact in (("commit", _commit), ("hardware", _hardware), ("packages", _packages), ("Python", _python)):
        lines += _fact(name, {cell.name: fact(cell) for cell in cells}, ablation)
    lines += _fact("corpus", {cell.name: _corpus(cell) for cell in ablation.cells}, ablation)
    if dates := sorted(filter(None, (_date(cell.record.get("updated")) for cell in ablation.cells))):
        lines.append(f"- cells ended: {dates[0]}" + (f" to {dates[-1]}" if dates[-1] != dates[0] else ""))
    resumed = [cell.name for cell in ablation.cells if cell.record.get("resumed_at")]
    lines += [f"- resumed from a checkpoint: {listed(resumed)}"] if resumed else []
    return "\n".join(lines) or "The cells' environments were not recorded."


def _fact(name: str, by_cell: Mapping[str, str], ablation: Ablation) -> list[str]:
    having: dict[str, list[str]] = {}
    for cell, value in by_cell.items():
        if value:
            having.setdefault(value, []).append(cell)
    if len(having) <= 1:
        return [f"- {name}: {value}" for value in having]
    head = f"- {name}: **the cells differ** ({count(len(having), 'value')})"
    return [head, *(f"  - {value}: {_named(cells, ablation)}" for value, cells in having.items())]


def _named(cells: list[str], ablation: Ablation) -> str:
    """Cells by name, a variant's at once where it has all of them."""
    names = []
    for variant in ablation.variants:
        own = [cell.name for cell in ablation.of(variant) if cell.name in cells]
        names += [variant] if len(own) == len(ablation.of(variant)) else own
    return listed(names)


def _commit(cell: Cell) -> str:
    commit, diff = cell.environment.get("commit"), cell.environment.get("diff")
    if not commit:
        return "not recorded"
    changes = f" with uncommitted changes (diff {hashlib.sha256(str(diff).encode()).hexdigest()[:8]})" if diff else ""
    return f"`{str(commit)[:12]}`{changes}"


def _hardware(cell: Cell) -> str:
    parts = (_items(cell.environment.get("hardware")), _items({"threads": cell.environment.get("threads")}))
    return ", ".join(filter(None, parts))


def _python(cell: Cell) -> str:
    return str(cell.environment.get("python") or "").split(" (")[0].split(" |")[0]


def _packages(cell: Cell) -> str:
    packages = cell.environment.get("packages")
    if isinstance(packages, list):
        packages = dict(str(item).split("==", 1) for item in packages if "==" in str(item))
    if not isinstance(packages, dict):
        return ""
    return ", ".join(f"{name} {packages[name]}" for name in PACKAGES if packages.get(name))


def _corpus(cell: Cell) -> str:
    corpus = cell.environment.get("data")
    if isinstance(corpus, dict):  # its place on this machine, and that of kept pages, is nobody else's
        places = {key: PurePath(str(corpus[key])).name for key in ("path", "pages_kept_in") if corpus.get(key)}
        corpus = corpus | places
    return _items(corpus)


def _items(node: Any) -> str:
    if isinstance(node, dict):
        items = ((key, value) for key, value in node.items() if value not in (None, "", [], {}))
        return ", ".join(f"{key} {_items(value)}" for key, value in items)
    return ", ".join(map(_items, node)) if isinstance(node, list) else "" if node is None else str(node)


def _date(value: Any) -> str:
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d")
    return str(value or "")[:10]
