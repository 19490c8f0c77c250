"""From a configuration file to the tables."""

from collections.abc import Sequence
from functools import singledispatch

import torch
from rich.console import Console
from torch import nn

from encoders.ocr2 import OCR2
from encoders.views import Views
from recipes.ablation import grid
from recipes.ablation.schema import Ablation
from recipes.budget import TYPICAL_PAGE
from recipes.cli import Resolved
from recipes.configuration import Source, suggestion
from recipes.description.costs import Input, costs
from recipes.description.tables import cost_table, page_table
from recipes.errors import UserError

TEXT = 1024  # tokens, where nothing says how long a sequence is


def describe(
    source: Source, variant: str | None, page: tuple[int, int] | None, text: int | None, overrides: Sequence[str]
) -> None:
    """Print the tables of a configuration.

    Args:
        source: the file.
        variant: of an ablation; None is its baseline.
        page: (width, height) in pixels of a page whose views are listed.
        text: tokens of text; None as the network has it.
        overrides: Lightning's arguments.

    Raises:
        UserError: for whatever is wrong with them.
    """
    resolved, notes = resolve(source, variant, overrides)
    with torch.device("meta"):
        model = resolved.build("model")
    network = getattr(model, "network", None)
    if network is None:
        raise UserError(f"{resolved.where}: model: {type(model).__name__} has no `network` to describe")
    options = (resolved.tree.get("data") or {}).get("init_args") or {}
    views = resolved.build("data").views if options.get("views") else Views()
    console = wide_console()
    console.print(resolved.where, highlight=False, markup=False)
    try:
        report(network, console, views, page, text, options.get("sequence_length") or TEXT)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{resolved.where}: model: {error}") from None
    for note in notes:
        console.print(note, highlight=False, markup=False)


def resolve(source: Source, variant: str | None, overrides: Sequence[str]) -> tuple[Resolved, list[str]]:
    """The configuration of a variant, and what the reader should know of it.

    Raises:
        UserError: no such variant, with the names that there are, or a configuration that does not parse.
    """
    if "ablation" not in source.tree:
        if variant is not None:
            raise UserError(f"--variant: {source.path} has no `ablation:` key and so no variants; leave it out")
        return Resolved(source.tree, overrides, where=str(source.path)), []
    ablation = Ablation.read(source)
    found = {each.name: each for each in grid.variants(ablation, source)}
    if variant is not None and variant not in found:
        near = suggestion(variant, found)
        names = ", ".join(found)
        raise UserError(
            f"--variant: {source.path} has no variant '{variant}'; "
            + (f"{near} there is {names}" if near.startswith("did") else f"there is {names}")
        )
    chosen = found[variant] if variant is not None else grid.baseline(ablation, list(found.values()), source)
    base = {key: node for key, node in source.tree.items() if key != "ablation"}
    notes = []
    if ablation.axes:
        notes.append(f"variants: {', '.join(found)}")
    if ablation.match_parameters and len(found) > 1:
        notes.append(
            f"parameters as the file has them; the ablation matches variants by {ablation.match_parameters}, "
            "see --ablation.plan of recipes.fit"
        )
    return Resolved(chosen.apply(base), overrides, where=f"{source.path}, variant {chosen.name}"), notes


@singledispatch
def report(
    network: nn.Module, console: Console, views: Views, page: tuple[int, int] | None, text: int | None, length: int
) -> None:
    """Print the tables of a network that reads text alone."""
    if page is not None:
        raise UserError(f"--page: {type(network).__name__} reads no images; leave it out")
    text = length if text is None else max(text, 1)
    found = costs(network, Input(text, (0, 0), views))
    console.print(cost_table(found, f"a forward of one sequence of {text:,} tokens", "sequence"))


@report.register
def _(
    network: OCR2, console: Console, views: Views, page: tuple[int, int] | None, text: int | None, length: int
) -> None:
    given = Input(text or 0, page or TYPICAL_PAGE, views)
    width, height = given.page
    if page is not None:
        console.print(page_table(network, views, width, height))
    title = f"a forward of one page of {width} x {height} pixels and {given.text:,} tokens of text"
    console.print(cost_table(costs(network, given), title, "page"))


def wide_console() -> Console:
    """The standard output, never narrower than the tables: numbers are not cut, a narrow terminal wraps the lines."""
    return Console(width=max(Console().width, 120))
