"""A probe as Markdown and JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recipes.files import replace_file, replace_json
from recipes.probes.conclusion import Probe
from recipes.probes.summary import Statistic, Summary
from recipes.reports.format import NONE, count, p_value

ORDER = {
    "centroid": "block of the centroid",
    "mass": "blocks by attention mass",
    "beyond_raster": "by mass, raster order taken out",
    "y": "y of the centroid",
    "x": "x of the centroid",
    "raster": "raster scan and block order",
}


def write(probe: Probe, folder: Path) -> None:
    """Write probe.json and probe.md, each whole or not at all."""
    replace_json(folder / "probe.json", asdict(probe))
    replace_file(folder / "probe.md", markdown(probe))


def markdown(probe: Probe) -> str:
    """The report: what the numbers say, the tables, how it was measured."""
    whole = probe.summary
    groups = {"all": whole}
    groups |= {f"type: {name}": found for name, found in probe.by_page_type.items()}
    groups |= {f"layout: {name}": found for name, found in probe.by_layout.items()}
    parts = [
        f"# In which order do the queries of {probe.model} look at a page?",
        "\n".join(f"- {sentence}" for sentence in probe.findings),
        "## Order",
        f"Spearman's correlation of query index with what is named, mean ± standard deviation over pages; "
        f"{probe.encoder}, {count(whole.pages, 'page')}.",
        _table(
            ["pages", "n", *ORDER.values(), "p"],
            [[name, str(found.pages), *(_number(found.order[key]) for key in ORDER), _p(found)]
             for name, found in groups.items()],
        ),
        f"{_percent(whole.order['inside'])} of the centroids fall in a block. A query's attention is "
        f"{_number(whole.order['width'])} sides of the view wide (root mean square): the wider, the more a centroid "
        "is the middle of the page, and the more the mass tells.",
    ]  # fmt: skip
    if probe.scrambled:
        rows = [[str(k), *(_number(found.order[key]) for key in ORDER)] for k, found in enumerate(probe.scrambled)]
        parts += [
            "## Chance",
            "The same pages with the entries of every weight in random order. Shuffled indices alone (p) are no "
            "sufficient test: positions make what a query looks at drift with its index, whatever the weights.",
            _table(["scrambled", *ORDER.values()], rows),
        ]
    if whole.layers:
        parts += [
            "## By layer",
            "Index against blocks by attention mass (against y without blocks), by attention sublayer.",
            _table(["sublayer", "Spearman"], [[str(k), _number(layer)] for k, layer in enumerate(whole.layers)]),
        ]
    if whole.moves:
        parts += ["## Content that moves", _moves(whole)]
    if whole.changes:
        parts += ["## Queries that change", _changes(whole)]
    parts += ["## Pages", _pages(probe)]
    if probe.failed:
        parts += ["## Not read", "\n".join(f"- {line}" for line in probe.failed)]
    parts += ["## Settings", _table(["setting", "value"], [[key, str(value)] for key, value in probe.settings.items()])]
    return "\n\n".join(parts) + "\n"


def _moves(summary: Summary) -> str:
    columns = {
        "content": "order where blocks are now",
        "place": "order where blocks were",
        "same": "the two alike",
        "followed": "own order, by content",
        "stayed": "own order, by place",
        "explained": "explained",
        "content_alone": "content alone",
        "place_alone": "place alone",
    }
    rows = [
        [
            name,
            str(move["tokens"].n),
            *(_number(move[key]) for key in columns),
            _p_of(move["difference"]),
            _p_pages(move["difference"]),
        ]
        for name, move in summary.moves.items()
    ]
    return (
        "Spearman after the move; the encoder's own order is that of its visual tokens before it. Explained are shares "
        "of the variance of that order's ranks. Content that an encoder recognises is followed in any order, learned "
        "or not: the first two columns are those that count.\n\n"
        + _table(["pages", "n", *columns.values(), "p of the difference, queries shuffled", "over pages"], rows)
    )


def _changes(summary: Summary) -> str:
    rows = [
        [name, _number(change["output"]), _number(change["undone"]), _number(change["loss"])]
        for name, change in summary.changes.items()
    ]
    loss = f" The loss is {_number(summary.loss)}." if summary.loss.n else ""
    return (
        "Change of the encoder's output relative to its size, the same after each output is put back to its query's "
        f"place, and what the decoder's loss rises by, in nats per token of the page's text.{loss}\n\n"
        + _table(["queries", "output", "put back", "loss"], rows)
    )


def _pages(probe: Probe) -> str:
    rows = []
    for page in probe.pages:
        for number, order in enumerate(page.views):
            numbers = (order.centroid, order.mass, order.y, order.x, order.raster)
            name = page.name if not number else f"{page.name}, crop {number - 1}"
            rows.append([name, page.page_type, page.layout, str(order.blocks), *(_plain(value) for value in numbers)])
    return _table(["page", "type", "layout", "blocks", "centroid", "mass", "y", "x", "raster"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(found: Statistic) -> str:
    return (
        NONE if not found.n else _plain(found.mean) + ("" if found.spread != found.spread else f" ± {found.spread:.2f}")
    )


def _plain(value: float) -> str:
    return NONE if value != value else f"{value:.2f}"


def _percent(found: Statistic) -> str:
    return f"{100 * found.mean:.0f} %" if found.n else "None"


def _p(summary: Summary) -> str:
    return _p_of(summary.order["mass"])


def _p_of(found: Statistic) -> str:
    return NONE if found.p is None else p_value(found.p)


def _p_pages(found: Statistic) -> str:
    return NONE if found.p_pages is None else p_value(found.p_pages)


def settings_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a report writes them: paths as text."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
