"""In which order the queries of the variants look at pages, where `recipes.callbacks.QueryOrder` has measured it."""

from pathlib import Path

import numpy as np
from matplotlib.image import imread

from recipes.reports import style
from recipes.reports.analysis import Analysis
from recipes.reports.cells import Cell
from recipes.reports.format import NONE, listed, table
from recipes.reports.statistics import mean_sd, t_interval

PREFIX = "query_order/"
PICTURE = "query_order_0.png"
ABREAST = 3  # panels
COLUMNS = {
    "before training": ("mass", 0),
    "trained": ("mass", -1),
    "raster scan": ("raster", -1),
    "raster order taken out": ("beyond_raster", -1),
    "exchanged: content": ("columns_exchanged/content", -1),
    "exchanged: place": ("columns_exchanged/place", -1),
    "shuffled: output": ("shuffled/output", -1),
    "shuffled: loss": ("shuffled/loss", -1),
}


def measured(analysis: Analysis) -> list[str]:
    """The variants of which a cell has numbers."""
    return [v for v in analysis.ablation.variants if any(_has(cell) for cell in _finished(analysis, v))]


def section(analysis: Analysis) -> list[str]:
    """A sentence, the numbers and what they mean; nothing where nothing was measured."""
    variants = measured(analysis)
    if not variants:
        return []
    rows = []
    for variant in variants:
        cells = [cell for cell in _finished(analysis, variant) if _has(cell)]
        rows.append([variant, str(len(cells)), *(_spread(_values(cells, *column)) for column in COLUMNS.values())])
    text = (
        "Spearman's correlation of query index with the order in which blocks are read, by attention mass, mean over "
        "the pages of a probe; mean ± standard deviation over the seeds. Raster scan: the same of as many queries that "
        "look at the visual tokens one after the other. Raster order taken out: that of what each query looks at is "
        "partialled out. "
        "Exchanged: with two columns of the page exchanged, the correlation with the order of the blocks where they "
        "now are (content) and where they were (place). Shuffled: the relative change of the features, and the nats "
        "per token that the loss rises by, when queries change places. Without queries, features come row by row, and "
        "nothing is changed."
    )
    return ["## Order of the queries", _sentence(analysis, variants), table(["variant", "n", *COLUMNS], rows), text]


def picture(analysis: Analysis, path: Path) -> str | None:
    """The paths on one page, a panel for each variant: its first finished cell's."""
    found, torn = {}, []
    for variant in analysis.ablation.variants:
        for cell in _finished(analysis, variant):
            if variant in found or not (cell.folder / PICTURE).exists():
                continue
            try:
                found[variant] = cell, imread(cell.folder / PICTURE)
            except (OSError, SyntaxError):  # matplotlib's error of what is no whole PNG
                torn.append(cell.name)
    unread = f"{PICTURE} of {listed(torn)} cannot be read" if torn else ""
    if not found:
        return unread or "no path of queries was drawn"
    rows = -(-len(found) // ABREAST)
    shape = {"width": 4.2, "height": 4.2 * rows, "rows": rows}
    title = f"{analysis.ablation.name}: where the queries look"
    made, panels = style.figure(min(len(found), ABREAST), title, **shape)
    for axes in panels:
        axes.set_axis_off()
    for axes, (variant, (_, image)) in zip(panels, found.items(), strict=False):
        axes.imshow(image)
        axes.set_title(variant)
    seeds = sorted({cell.seed for cell, _ in found.values()})
    caption = f"seed {listed([str(seed) for seed in seeds])}, last probe, the page that a raster scan reads worst"
    style.save(made, path, "; ".join(filter(None, (caption, unread))))
    return None


def _sentence(analysis: Analysis, variants: list[str]) -> str:
    groups: dict[str, list[str]] = {"": [], "no": [], "untested": []}
    for variant in variants:
        cells = [cell for cell in _finished(analysis, variant) if not cell.series(PREFIX + "shuffled/output").empty]
        if values := _values(cells, "beyond_raster", -1):
            low, high = t_interval(values)
            group = "untested" if len(values) < 2 else "" if low > 0 or high < 0 else "no"
            groups[group].append(f"{variant} ({_spread(values)}, n = {len(values)})")
    says = {
        "": "the order of the queries correlates with the reading order beyond a raster scan in",
        "no": "no such correlation is shown in" if groups[""] else "no correlation of the order of the queries with "
        "the reading order beyond a raster scan is shown in",
        "untested": "with n = 1 the order of the queries is not tested in",
    }  # fmt: skip
    text = "; ".join(f"{says[group]} {listed(names)}" for group, names in groups.items() if names)
    tested = " (95 % t intervals over seeds, one for each variant)" if groups[""] or groups["no"] else ""
    return f"**{text[0].upper()}{text[1:]}{tested}.**" if text else ""


def _finished(analysis: Analysis, variant: str) -> list[Cell]:
    return analysis.ablation.of(variant, "finished")


def _has(cell: Cell) -> bool:
    return any(name.startswith(PREFIX) for name in cell.metrics)


def _values(cells: list[Cell], name: str, at: int) -> list[float]:
    """Of each cell the first (0) or last (-1) value; the first counts only where it is the untrained model's."""
    found = [series for cell in cells if len(series := cell.series(PREFIX + name).dropna())]
    return [float(series.iloc[at]) for series in found if at or series.index[0] == 0]


def _spread(values: list[float]) -> str:
    mean, sd = mean_sd(values)
    return NONE if np.isnan(mean) else f"{mean:.2f}" if np.isnan(sd) else f"{mean:.2f} ± {sd:.2f}"
