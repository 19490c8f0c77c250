"""From a file and a command line to cells that can run: everything is checked here, and nothing is written."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipes.ablation import grid
from recipes.ablation.cells import Cell, cells_in, read_cell
from recipes.ablation.grid import Variant
from recipes.ablation.matching import match
from recipes.ablation.options import Options
from recipes.ablation.schema import Ablation
from recipes.checks import (
    CHECKPOINT_BYTES_PER_PARAMETER,
    Costs,
    check_accelerator,
    check_data,
    check_folder,
    check_model,
    check_sources,
    check_trainer,
    count_parameters,
)
from recipes.cli import Resolved
from recipes.configuration import Source, Tree, differences, full_path, lookup, plain
from recipes.errors import UserError
from recipes.run import find_checkpoint, read_configuration

# what the driver sets in every cell, and so nobody else
_OWN = {
    "--seed_everything": "--ablation.seeds",
    "--trainer.default_root_dir": "--ablation.output",
    "--data.seed": "--ablation.seeds",
    "--data.init_args.seed": "--ablation.seeds",
}


@dataclass(frozen=True)
class Work:
    """What an ablation is about to do.

    Attributes:
        ablation: its question and grid.
        folder: of its results.
        cells: the chosen ones, seed by seed.
        stale: folders of cells that a restart throws away.
    """

    ablation: Ablation
    folder: Path
    cells: list[Cell]
    stale: list[Path]

    @property
    def open(self) -> list[Cell]:
        """Cells without a result yet."""
        return [cell for cell in self.cells if cell.folder in self.stale or not cell.ended]


@dataclass(frozen=True)
class _Checked:
    resolved: Resolved
    costs: Costs
    matched: dict[str, int] | None


def prepare(source: Source, options: Options) -> Work:
    """Resolve and check every chosen cell.

    A plan for a GPU takes neither data nor trainer.

    Raises:
        UserError: for the first thing that is wrong.
    """
    ablation = Ablation.read(source)
    for argument in options.overrides:
        flag = argument.partition("=")[0]
        if flag in _OWN:
            raise UserError(f"{flag}: the driver sets it in every cell; use {_OWN[flag]}")
    found = grid.variants(ablation, source)
    base_variant = grid.baseline(ablation, found, source)
    ablation = replace(ablation, baseline=base_variant.name)
    seeds = list(ablation.seeds) if options.seeds is None else options.seeds
    chosen = grid.select(found, seeds, options.only)
    base = {key: value for key, value in source.tree.items() if key != "ablation"}

    def resolve(variant: Variant) -> Resolved:
        where = f"{source.path}, variant {variant.name}" if ablation.axes else str(source.path)
        try:
            tree = variant.apply(base)
        except UserError as error:
            raise UserError(f"{source.path}: {error}") from None
        resolved = Resolved(tree, options.overrides, where=where)
        lost = variant.survives(resolved.tree)
        if lost:
            raise UserError(
                f"{where}: the command line changes {lost}, which an axis sets; choose variants with --ablation.only"
            )
        return resolved

    targets: dict[str, int] = {}
    checked: dict[str, _Checked] = {}
    for variant in {variant.name: variant for variant, _ in chosen}.values():
        resolved, matched = resolve(variant), None
        reference = grid.reference(variant, base_variant, found)
        if ablation.match_parameters and reference is not variant:
            if reference.name not in targets:
                targets[reference.name] = count_parameters(resolve(reference))
            resolved, matched = _match(resolved, ablation.match_parameters, targets[reference.name])
        checked[variant.name] = _Checked(resolved, check_model(resolved, flops=options.plan), matched)
    here = not options.plan or ablation.scale == "cpu"
    if not options.plan:
        check_accelerator(ablation.scale, next(iter(checked.values())).resolved, options.overrides)
    if here:
        _once(checked, "trainer", check_trainer)
        _once(checked, "data", check_data)
    folder = options.output or Path("results") / ablation.name
    cells = [
        Cell(variant, seed, path, _cell_tree(entry.resolved.tree, seed, path), entry.costs, entry.matched)
        for variant, seed in chosen
        for entry in [checked[variant.name]]
        for path in [folder / variant.name / f"seed-{seed}"]
    ]
    stale = _stale(folder, cells, options)
    if not options.plan:
        _refuse_others(ablation, found, folder, cells, stale)
        work = Work(ablation, folder, cells, stale)
        begun = [cell for cell in work.open if cell.folder not in stale and find_checkpoint(cell.folder)[0]]
        fresh = {cell.variant.name: checked[cell.variant.name] for cell in work.open if cell not in begun}
        _once(fresh, "model", check_sources)
        check_folder(folder, sum(CHECKPOINT_BYTES_PER_PARAMETER * cell.costs.parameters for cell in work.open))
    return Work(ablation, folder, cells, stale)


def _match(resolved: Resolved, path: str, target: int) -> tuple[Resolved, dict[str, int]]:
    path = full_path(resolved.tree, path)

    try:
        start = lookup(resolved.tree, path)
        if type(start) is not int:
            raise UserError(f"'{path}' is {start!r}, not an integer")
        value = match(lambda value: count_parameters(resolved.with_value(path, value)), start, target)
    except KeyError:
        raise UserError(f"{resolved.where}: ablation.match_parameters: the variant has no '{path}'") from None
    except UserError as error:
        raise UserError(f"{resolved.where}: ablation.match_parameters: {error}") from None
    return resolved.with_value(path, value), {path: value}


def _once(checked: dict[str, _Checked], key: str, check: Any) -> None:
    """Check every different node of the variants once."""
    seen = set()
    for entry in checked.values():
        room = (entry.resolved.tree["model"].get("init_args") or {}).get("vocabulary_size")
        mark = json.dumps([entry.resolved.tree.get(key), room if key == "data" else None], sort_keys=True, default=str)
        if mark not in seen:
            seen.add(mark)
            check(entry.resolved)


def _cell_tree(resolved: Tree, seed: int, folder: Path) -> Tree:
    tree = plain(resolved)
    tree["seed_everything"] = seed
    data = (tree.get("data") or {}).get("init_args") or {}
    if "seed" in data:
        data["seed"] = seed
    tree["trainer"]["default_root_dir"] = str(folder)
    tree["trainer"]["enable_progress_bar"] = False
    return tree


def _stale(folder: Path, cells: list[Cell], options: Options) -> list[Path]:
    if not options.restart:
        return []
    if options.only or options.seeds is not None:
        return [cell.folder for cell in cells if cell.folder.exists()]
    return cells_in(folder)


def _refuse_others(
    ablation: Ablation, found: list[Variant], folder: Path, cells: list[Cell], stale: list[Path]
) -> None:
    """Raise a UserError where the folder holds cells that do not belong beside the chosen ones."""
    remedy = "start over with --ablation.restart, or give another folder with --ablation.output DIR"
    ours = {cell.folder: cell for cell in cells}
    known = {variant.name for variant in found}
    for path in cells_in(folder):
        there = read_cell(path)
        if there.get("ablation") != ablation.name:
            raise UserError(
                f"{folder} holds cells of another ablation, '{there.get('ablation')}'; "
                "give another folder with --ablation.output DIR"
            )
        if path in stale:
            continue
        if there.get("variant") not in known:
            raise UserError(
                f"{folder} holds the variant '{there.get('variant')}', which the file no longer has; {remedy}"
            )
        beside = path not in ours
        new = ours[path].tree if not beside else cells[0].tree
        free = _free(found, cells) if beside else []
        for key, before, after in differences(read_configuration(path), new):
            if not any((key + ".").startswith(other + ".") for other in free):
                raise UserError(
                    f"{folder} holds cells of another configuration ({path.relative_to(folder)}): "
                    f"{key} {before} -> {after}; {remedy}"
                )


def _free(found: list[Variant], cells: list[Cell]) -> set[str]:
    """Paths that may differ from one cell to another."""
    axes = {path for variant in found for path in variant.settings}
    matched = {path for cell in cells for path in cell.matched or {}}
    return axes | matched | {"seed_everything", "data.init_args.seed"}
