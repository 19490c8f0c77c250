"""The tables that `python -m recipes.describe` prints."""

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.table import Table

from encoders.ocr2 import OCR2
from encoders.views import Views
from recipes.description.costs import Cost
from recipes.description.parts import BETWEEN, HEAD, TOPOLOGIES


def cost_table(found: Mapping[str, Cost], title: str, unit: str) -> Table:
    """A row for each part, then sums: of each group of parts, of all topologies, of everything.

    Args:
        found: part -> cost.
        title: above the table.
        unit: what the FLOPs are for.
    """
    table = _table(title)
    table.add_column("part", no_wrap=True)
    for name in ("parameters", "active a token", f"FLOPs a {unit}", "% of FLOPs"):
        table.add_column(name, justify="right", no_wrap=True)
    total = _sum(found.values())

    def row(name: str, cost: Cost) -> None:
        share = 100 * cost.flops / total.flops if total.flops else 0.0
        table.add_row(name, f"{cost.parameters:,}", f"{cost.active:,}", f"{cost.flops:,}", f"{share:.1f}")

    for part in in_order(found):
        row(part, found[part])
    table.add_section()
    for name, cost in sums(found).items():
        row(name, cost)
    row("total", total)
    return table


def sums(found: Mapping[str, Cost]) -> dict[str, Cost]:
    """Groups of several parts without head and topologies, and all topologies: name -> cost."""
    groups: dict[str, list[Cost]] = {}
    for part, cost in found.items():
        group, between, name = part.rpartition(BETWEEN)
        if name not in (HEAD, TOPOLOGIES):
            groups.setdefault(group if between else part, []).append(cost)
    rest = f"without {HEAD} and {TOPOLOGIES}"
    rows = {f"{group} {rest}": _sum(costs) for group, costs in groups.items() if len(costs) > 1}
    topologies = [cost for part, cost in found.items() if part.rpartition(BETWEEN)[2] == TOPOLOGIES]
    return rows | {f"all {TOPOLOGIES}": _sum(topologies)}


def in_order(found: Mapping[str, Cost]) -> list[str]:
    """The parts in the order of their groups, topologies last in each."""
    groups = list(dict.fromkeys(part.split(BETWEEN)[0] for part in found))
    return sorted(found, key=lambda part: (groups.index(part.split(BETWEEN)[0]), part.endswith(TOPOLOGIES)))


def page_table(network: OCR2, views: Views, width: int, height: int) -> Table:
    """Visual tokens m and queries q of every view of a page of width x height pixels, and all together."""
    columns, rows = views.grid(width, height)
    count = columns * rows
    cut = f"{count} crops in {columns} x {rows}" if count else "no crops"
    table = _table(f"a page of {width} x {height} pixels: {cut} (columns x rows)")
    table.add_column("view", no_wrap=True)
    for name in ("pixels", "grid of m", "m a view", "q a view", "views", "visual tokens to the decoder"):
        table.add_column(name, justify="right", no_wrap=True)
    stride, total = network.vision.tokenizer.stride, 1
    for name, side, number in (("crop", views.crop_size, count), ("page", views.global_size, 1)):
        if number:
            tokens, grid = network.vision.tokens_per_view(side, side), side // stride
            queries = "none" if network.vision.queries is None else f"{network.vision.queries.count((side, side)):,}"
            total += number * tokens
            pixels, raster = f"{side} x {side}", f"{grid} x {grid}"
            table.add_row(name, pixels, raster, f"{grid**2:,}", queries, f"{number}", f"{number * tokens:,}")
    table.add_row("separator", "", "", "", "", "", "1")
    table.add_section()
    table.add_row("total", "", "", "", "", f"{count + 1}", f"{total:,}")
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _sum(costs: object) -> Cost:
    total = Cost()
    for cost in costs:  # type: ignore[attr-defined]
        total.parameters += cost.parameters
        total.active += cost.active
        total.flops += cost.flops
    return total
