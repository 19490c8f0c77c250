"""Reading an ablation's folder; what cannot be read is named, never fatal."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from recipes.ablation.comparisons import read_comparisons
from recipes.ablation.published import Published
from recipes.ablation.schema import variant_names
from recipes.configuration import parse_yaml
from recipes.reports.cells import Ablation, Cell

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_ablation(folder: Path) -> Ablation:
    """Read `results/<ablation>`: its YAML and the cells `<variant>/seed-<k>`.

    Raises FileNotFoundError, in one line, where the folder is missing or holds no cell.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; run the ablation first, or name one under results/")
    problems: list[str] = []
    question, command, plan = _read_plan(folder / "ablation.yaml", problems)
    cells = [
        _read_cell(seed, problems)
        for seed in sorted(folder.glob("*/seed-*"))
        if seed.is_dir() and seed.name.removeprefix("seed-").lstrip("-").isdigit()
    ]
    if not cells:
        raise FileNotFoundError(f"{folder}: no cells (<variant>/seed-<k>/) in it; run the ablation first")
    settings = {
        str(axis): {
            str(level): node for level, node in (levels if isinstance(levels, dict) else dict.fromkeys(levels)).items()
        }
        for axis, levels in _mapping(plan.get("axes")).items()
        if isinstance(levels, (dict, list))
    }
    axes = {axis: list(levels) for axis, levels in settings.items() if levels}
    if not axes:  # without the YAML, the cells say what was varied
        for cell in cells:
            for axis, variant in cell.axes.items():
                axes[axis] = list(dict.fromkeys([*axes.get(axis, []), variant]))
    planned = variant_names(axes) if axes else []
    order = {variant: k for k, variant in enumerate(planned)}
    cells.sort(key=lambda cell: (order.get(cell.variant, len(order)), cell.variant, cell.seed))
    present = {cell.name for cell in cells}
    seeds = plan.get("seeds") if isinstance(plan.get("seeds"), list) else []
    names = planned or list(dict.fromkeys(cell.variant for cell in cells))
    missing = [name for v in planned for k in seeds if (name := f"{v}/seed-{k}") not in present]
    return Ablation(
        folder=folder,
        question=question or next((cell.question for cell in cells if cell.question), ""),
        command=command,
        axes=axes,
        baseline=str(plan.get("baseline") or next(iter(planned), cells[0].variant)),
        cells=cells,
        missing=missing if plan.get("axes") else [],
        problems=problems,
        settings=settings,
        published=_checked(Published.read, "published", plan, names, problems),
        comparisons=_checked(read_comparisons, "comparisons", plan, names, problems) or (),
    )


def _checked(
    read: Callable[..., Any], key: str, plan: dict[str, Any], variants: Sequence[str], problems: list[str]
) -> Any:
    """A node that names variants; None where it is wrong, which is a problem."""
    try:
        return read(plan.get(key), variants, lambda message: ValueError(f"{key}{message}"))
    except ValueError as error:
        problems.append(f"ablation.yaml: {error}")
        return None


def _read_plan(path: Path, problems: list[str]) -> tuple[str, str, dict[str, Any]]:
    """The question and the command of the leading comment, and the node `ablation`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path.name}: {_reason(error)}")
        return "", "", {}
    comments = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comments.append(line.lstrip("#").strip())
    at = next((k for k, line in enumerate(comments) if line.startswith(("python ", "make "))), len(comments))
    try:
        node = _mapping(_mapping(parse_yaml(text)).get("ablation"))
    except yaml.YAMLError as error:
        problems.append(f"{path.name}: {_reason(error)}")
        node = {}
    return " ".join(filter(None, comments[:at])), next(iter(comments[at : at + 1]), ""), node


def _read_cell(folder: Path, problems: list[str]) -> Cell:
    name = f"{folder.parent.name}/{folder.name}"

    def read(file: str, parse: Any, needed: bool = True) -> dict[str, Any]:
        try:
            content = parse((folder / file).read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError("not a mapping")
            return content
        except FileNotFoundError:
            if needed:
                problems.append(f"{name}/{file}: missing")
        except (OSError, ValueError, yaml.YAMLError) as error:
            problems.append(f"{name}/{file}: {_reason(error)}")
        return {}

    identity = read("cell.json", json.loads)
    record = read("status.json", json.loads, needed=False)
    ran = record.get("status") in ("finished", "diverged")  # one that failed may have failed before its files
    unreadable = not record and (folder / "status.json").exists()
    return Cell(
        folder=folder,
        variant=str(identity.get("variant") or folder.parent.name),
        seed=int(folder.name.removeprefix("seed-")),
        axes={str(axis): str(variant) for axis, variant in _mapping(identity.get("axes")).items()},
        status="unreadable" if unreadable else str(record.get("status") or "not started"),
        record=record,
        config=read("config.yaml", lambda text: yaml.load(text, Loader)),
        environment=read("environment.json", json.loads, needed=ran),
        shared=bool(identity.get("shared")),
        matched=_mapping(identity.get("matched")),
        question=str(identity.get("question") or ""),
        metrics=_read_metrics(folder / "metrics.csv", name, problems, needed=ran),
    )


def _read_metrics(path: Path, name: str, problems: list[str], needed: bool) -> dict[str, pd.Series]:
    """Long-format metrics, each by step; a line without its end is torn and dropped, the last of a step counts."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        if needed:
            problems.append(f"{name}/{path.name}: {_reason(error)}")
        return {}
    lines = text.splitlines(keepends=True)
    whole = [line for line in lines[1:] if line.endswith("\n") and line.count(",") == 2]
    columns = {"names": ["step", "metric", "value"], "dtype": str, "keep_default_na": False}
    rows = pd.read_csv(io.StringIO("".join(whole)), **columns) if whole else pd.DataFrame(columns=columns["names"])
    step = pd.to_numeric(rows["step"], errors="coerce")
    value = pd.to_numeric(rows["value"].where(rows["value"].str.strip() != "", "?"), errors="coerce")
    nan = rows["value"].str.strip().str.lower().str.lstrip("+-").eq("nan")
    good = (step.notna() & (value.notna() | nan)).to_numpy()
    skipped = max(len(lines) - 1, 0) - int(good.sum())
    if skipped:
        problems.append(f"{name}/{path.name}: {skipped} torn or unreadable line{'s'[: skipped > 1]} left out")
    found = rows["metric"].to_numpy(object), step.to_numpy(float), value.to_numpy(float)
    return _by_metric(*(column[good] for column in found))


def _by_metric(metrics: np.ndarray, steps: np.ndarray, values: np.ndarray) -> dict[str, pd.Series]:
    """A series of each metric by step, the last of a step; by hand, for pandas' groups take ten times as long."""
    names, metric = np.unique(metrics, return_inverse=True)
    order = np.lexsort((steps, metric))  # stable: the last of a step stays the last
    metric, steps, values = metric[order], steps[order], values[order]
    last = np.ones(len(order), bool)
    last[:-1] = (metric[1:] != metric[:-1]) | (steps[1:] != steps[:-1])
    metric, steps, values = metric[last], steps[last], values[last]
    if (steps % 1 == 0).all():
        steps = steps.astype(np.int64)
    ends = np.searchsorted(metric, np.arange(len(names) + 1))
    indexes: dict[bytes, pd.Index] = {}  # most metrics have the steps of others
    found = {}
    for name, low, high in zip(names, ends[:-1], ends[1:], strict=True):
        key = steps[low:high].tobytes()
        if key not in indexes:
            indexes[key] = pd.Index(steps[low:high], name="step")
        found[str(name)] = pd.Series(values[low:high], index=indexes[key], name="value")
    return found


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _reason(error: Exception) -> str:
    return "missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({' '.join(str(error).split())})"
