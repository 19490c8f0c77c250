"""The grid: variants as the product of the axes, each with its configuration, and cells as variants times seeds."""

import itertools
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from recipes.ablation.schema import Ablation
from recipes.cli import GROUPS
from recipes.configuration import Source, Tree, full_path, leaves, lookup, place, plain, suggestion
from recipes.errors import UserError


@dataclass(frozen=True)
class Variant:
    """One point of the axes: a name, and what it sets over the base configuration.

    Attributes:
        name: names of the axes' variants, joined by "+".
        axes: axis -> variant.
        settings: dotted path -> scalar or whole node, shorter paths first.
    """

    name: str
    axes: dict[str, str]
    settings: dict[str, Any]

    def apply(self, base: Tree) -> Tree:
        """The base configuration with this variant's nodes in it; raises UserError for a path it does not have."""
        tree = plain(base)
        for path, value in self.settings.items():
            try:
                place(tree, path, value, GROUPS)
            except UserError as error:
                raise UserError(f"ablation.axes, variant {self.name}: {error}") from None
        return tree

    def survives(self, resolved: Tree) -> str | None:
        """Path of a setting that the resolved configuration no longer has, None where it has them all."""
        for path, value in self.settings.items():
            for inner, wanted in leaves(value):
                full = f"{path}.{inner}" if inner else path
                # a node set by a longer path of the same variant is that path's business
                if any(other != path and (full + ".").startswith(other + ".") for other in self.settings):
                    continue
                try:
                    found = lookup(resolved, full)
                except KeyError:
                    continue
                if not full.endswith("class_path") and wanted != {} and not _same(found, wanted):
                    return full
        return None


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(found, dict):
        return True  # a class named alone, which the parser has written out
    if isinstance(found, (int, float)) and isinstance(wanted, (int, float)):
        return found == wanted
    return str(found) == str(wanted)


def variants(ablation: Ablation, source: Source) -> list[Variant]:
    """The product of the axes, in the file's order; raises UserError where two axes set the same path."""
    owners: dict[str, str] = {}
    for axis, named in ablation.axes.items():
        for path in {full_path(source.tree, path) for settings in named.values() for path in settings}:
            if path in owners:
                raise UserError(
                    f"{source.path}: ablation.axes.{axis}: '{path}' is set by axis '{owners[path]}' already; "
                    "let one axis set it"
                )
            owners[path] = axis
    found = []
    for choice in itertools.product(*(named.items() for named in ablation.axes.values())):
        settings = {full_path(source.tree, path): value for _, given in choice for path, value in given.items()}
        ordered = dict(sorted(settings.items(), key=lambda entry: entry[0].count(".")))
        axes = dict(zip(ablation.axes, (name for name, _ in choice), strict=True))
        found.append(Variant("+".join(axes.values()) or "base", axes, ordered))
    return found


def baseline(ablation: Ablation, found: list[Variant], source: Source) -> Variant:
    """The variant the others are compared with; raises UserError where the file names one that is not there."""
    if ablation.baseline is None:
        return found[0]
    for variant in found:
        if variant.name == ablation.baseline:
            return variant
    known = [variant.name for variant in found]
    raise UserError(
        f"{source.path}: ablation.baseline: there is no variant '{ablation.baseline}'; "
        f"{suggestion(ablation.baseline, known)}"
    )


def reference(variant: Variant, base: Variant, found: list[Variant]) -> Variant:
    """The variant whose parameters this one is matched to: the same but for the first axis, which is the baseline's."""
    if not variant.axes:
        return variant
    first = next(iter(variant.axes))
    axes = {**variant.axes, first: base.axes[first]}
    return next(other for other in found if other.axes == axes)


def select(found: list[Variant], seeds: list[int], only: list[str]) -> list[tuple[Variant, int]]:
    """Cells as (variant, seed), seed by seed, that match a pattern; raises UserError for a pattern without a match.

    A pattern is a variant's name, the name of one axis's variant, or variant/seed-k, each with * and ?.
    """
    cells = [(variant, seed) for seed in seeds for variant in found]

    def names(variant: Variant, seed: int) -> list[str]:
        own = [variant.name, *variant.axes.values()]
        return own + [f"{name}/seed-{seed}" for name in own]

    for pattern in only:
        if not any(fnmatchcase(name, pattern) for cell in cells for name in names(*cell)):
            known = [variant.name for variant in found]
            raise UserError(
                f"--ablation.only: '{pattern}' matches no cell; {suggestion(pattern, known)}"
                f"{' at seeds ' + ', '.join(map(str, seeds)) if '/' in pattern else ''}"
            )
    return [
        cell
        for cell in cells
        if not only or any(fnmatchcase(name, pattern) for pattern in only for name in names(*cell))
    ]
