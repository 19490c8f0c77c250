"""A grid of many variants in panels of a few: one for each combination of levels of all axes but the first."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recipes.reports import style
from recipes.reports.analysis import Analysis

FEW = 12  # variants whose names still find room in one panel


@dataclass(frozen=True)
class Facet:
    """Variants that are drawn together.

    Attributes:
        name: the levels that they share; None where there is one facet alone.
        lines: variant -> what its line is called.
        hues: variant -> its colour, the same for a level in every facet.
        reference: the variant that the others are compared with; None where no cell of it finished.
        base: what the reference's line is called, or would be.
    """

    name: str | None
    lines: dict[str, str]
    hues: dict[str, str]
    reference: str | None
    base: str

    def compared(self, text: str) -> str:
        """The text, with the reference's name in its braces, or that there is none."""
        return text.format(self.reference) if self.reference else f"no {self.base} to compare with"

    def title(self, alone: str, beside: str = "{}") -> str:
        """The panel's title: `alone` where this is the only facet, else `beside` with its name in the braces."""
        return alone if self.name is None else beside.format(self.name)


def facets(analysis: Analysis) -> list[Facet]:
    """One facet of all variants where they are few or have a single axis; the first axis is compared in each."""
    ablation = analysis.ablation
    variants, baseline = ablation.variants, ablation.baseline
    finished = {variant for variant in variants if ablation.of(variant, "finished")}
    if len(variants) <= FEW or len(ablation.axes) < 2:
        reference = baseline if baseline in finished else None
        return [Facet(None, {v: v for v in variants}, style.colours(variants, baseline), reference, baseline)]
    first = next(iter(ablation.axes))
    level = {variant: ablation.levels(variant).get(first, variant) for variant in variants}
    base = level.get(baseline, baseline.partition("+")[0])  # one without a cell has its levels in its name alone
    hues = style.colours(list(dict.fromkeys(level.values())), base)
    groups: dict[tuple[str, ...], list[str]] = {}
    for variant in variants:
        others = tuple(other for axis, other in ablation.levels(variant).items() if axis != first)
        groups.setdefault(others, []).append(variant)
    place = {level: number for levels in ablation.axes.values() for number, level in enumerate(levels)}
    ordered = sorted(groups.items(), key=lambda group: [place.get(level, len(place)) for level in group[0]])
    return [
        Facet(
            "+".join(others) or "others",
            {variant: level[variant] for variant in group},
            {variant: hues[level[variant]] for variant in group},
            next((variant for variant in group if level[variant] == base and variant in finished), None),
            base,
        )
        for others, group in ordered
    ]


def panels(found: list[Facet], kinds: int, title: str, width: float, height: float) -> tuple[Figure, list[list[Axes]]]:
    """A figure with a panel for each kind of line of each facet: [kind][facet].

    Args:
        found: what `facets` gave.
        kinds: side by side for one facet; else a row each, whose panels share their heights.
        title: of the figure.
        width: of a panel, in inches.
        height: of one facet's panel, in inches; many facets have smaller ones.
    """
    if len(found) == 1:
        made, flat = style.figure(kinds, title, width=width, height=height)
        return made, [[panel] for panel in flat]
    size = {"width": 2.5, "height": 0.5 + 2.5 * kinds, "rows": kinds, "sharey": "row"}
    made, flat = style.figure(len(found), title, **size)
    return made, [flat[row * len(found) : (row + 1) * len(found)] for row in range(kinds)]


def name_lines(made: Figure, found: list[Facet], ends: dict[Axes, dict[str, tuple[float, str]]]) -> None:
    """Names at the ends of the lines ({panel: {variant: (height, colour)}}); a legend beside many facets."""
    if len(found) == 1:
        style.label_ends(ends)
        return
    shown = {variant for of in ends.values() for variant in of}
    hues = {facet.lines[v]: facet.hues[v] for facet in found for v in facet.lines if v in shown}
    style.legend(made, hues)
    for panel in made.axes:
        if not panel.get_subplotspec().is_first_col():
            panel.set_ylabel("")
        if not panel.get_subplotspec().is_last_row():
            panel.set_xlabel("")
