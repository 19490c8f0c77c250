"""The `ablation:` node of a YAML file."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from recipes.ablation.comparisons import Pairs, read_comparisons
from recipes.ablation.published import Published
from recipes.configuration import Source, suggestion
from recipes.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Ablation:
    """One question, asked over a grid.

    Attributes:
        name: of the results' folder; by default the file's name.
        question: the file's first comment.
        axes: axis -> variant -> dotted path -> scalar or whole node.
        seeds: of the cells.
        match_parameters: path of an integer that the driver sets so that along the first axis every variant has as
            many parameters as the baseline's.
        scale: "cpu", or "gpu" for what a machine without one is not to start.
        baseline: the variant that others are compared with, by default the first.
        jobs: cells side by side, unless the command line says otherwise.
        threads: of a cell's process; None shares the cores out. Rounding depends on it, and small models on few
            cores are faster with one.
        published: numbers of others for some variants, which the report sets beside ours.
        comparisons: (variant, reference) of the differences that are tested, by default each variant and the baseline,
            or the variant that differs from it in one axis. Few that are named before the run are corrected for little.
    """

    name: str
    question: str = ""
    axes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    match_parameters: str | None = None
    scale: str = "cpu"
    baseline: str | None = None
    jobs: int = 1
    threads: int | None = None
    published: Published | None = None
    comparisons: Pairs = ()

    @classmethod
    def read(cls, source: Source) -> "Ablation":
        """Take the node out of a file; raises UserError that names the key and what it should be."""
        node = source.tree["ablation"]

        def refuse(message: str) -> UserError:
            return UserError(f"{source.path}: ablation{message}")

        if not isinstance(node, dict):
            raise refuse(": must be a mapping with `axes:` and `seeds:`")
        known = [entry.name for entry in dataclasses.fields(cls) if entry.name != "question"]
        for key in node:
            if key not in known:
                raise refuse(f": unknown key '{key}'; {suggestion(str(key), known)}")
        axes = node.get("axes") or {}
        if not isinstance(axes, dict):
            raise refuse(".axes: must be a mapping of axes to variants")
        read_axes = {}
        for axis, variants in axes.items():
            if not isinstance(variants, dict) or not variants:
                raise refuse(f".axes.{axis}: must be a mapping of variants, each of them path -> value")
            read_axes[_name(axis, refuse, ".axes")] = {
                _name(variant, refuse, f".axes.{axis}"): _settings(settings, refuse, f".axes.{axis}.{variant}")
                for variant, settings in variants.items()
            }
        seeds = node.get("seeds", [0])
        whole = isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
        if not whole or len(set(seeds)) < len(seeds):
            raise refuse(f".seeds: must be different whole numbers, as in [0, 1, 2], not {seeds!r}")
        scale = node.get("scale", "cpu")
        if scale not in ("cpu", "gpu"):
            raise refuse(f".scale: must be cpu or gpu, not {scale!r}")
        match = node.get("match_parameters")
        if match is not None and not isinstance(match, str):
            raise refuse(f".match_parameters: must be a dotted path to an integer, not {match!r}")
        for key in ("jobs", "threads"):
            count = node.get(key)
            if count is not None and (type(count) is not int or count < 1):
                raise refuse(f".{key}: must be a whole number from 1, not {count!r}")
        baseline = node.get("baseline")
        variants = variant_names(read_axes)
        return cls(
            name=_name(node.get("name", source.stem), refuse, ".name"),
            question=source.question,
            axes=read_axes,
            seeds=tuple(seeds),
            match_parameters=match,
            scale=scale,
            baseline=None if baseline is None else str(baseline),
            jobs=node.get("jobs") or 1,
            threads=node.get("threads"),
            published=Published.read(node.get("published"), variants, lambda message: refuse(f".published{message}")),
            comparisons=read_comparisons(
                node.get("comparisons"), variants, lambda message: refuse(f".comparisons{message}")
            ),
        )


def variant_names(axes: Mapping[str, Iterable[str]]) -> list[str]:
    """Names of the product of the axes' levels, in the file's order; "base" where there are no axes."""
    return ["+".join(levels) or "base" for levels in itertools.product(*axes.values())]


def _name(value: Any, refuse: Any, where: str) -> str:
    if type(value) not in (str, int, float):
        raise refuse(f"{where}: {value!r} cannot be a name; YAML reads yes, no, on, off and null as values: quote it")
    if not _NAME.fullmatch(str(value)):
        raise refuse(f"{where}: '{value}' cannot be a name; use letters, digits, '_', '-' and '.'")
    return str(value)


def _settings(settings: Any, refuse: Any, where: str) -> dict[str, Any]:
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not all(isinstance(path, str) for path in settings):
        raise refuse(f"{where}: must be a mapping of dotted paths to values, or {{}} for the base configuration")
    return settings
