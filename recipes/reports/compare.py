"""Ablations side by side: variants of the same name, their losses, gains and costs, and the settings that differ."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from scipy import stats

from recipes.files import replace_file
from recipes.reports import style
from recipes.reports.analysis import Analysis, analyse
from recipes.reports.cells import GAIN, Cell
from recipes.reports.format import NONE, extent, gain, p_column, signed, significant, table
from recipes.reports.markdown import spread
from recipes.reports.reading import read_ablation
from recipes.reports.statistics import Difference, holm, paired

LINES = ("-", "--", ":", "-.")


def write_comparison(folders: Sequence[Path], at: str = "steps", output: Path | None = None) -> tuple[str, Path]:
    """Write comparison.md and comparison.png; returns the table of the first and the path of the Markdown file."""
    analyses = [analyse(read_ablation(folder), at) for folder in folders]
    limit = min((a.budget for a in analyses if a.losses), default=math.inf)  # one budget for all
    analyses = [analyse(analysis.ablation, at, limit) for analysis in analyses]
    names = _names(folders)
    output = output or folders[0].parent / "-vs-".join(name.replace("/", "-") for name in names)
    output.mkdir(parents=True, exist_ok=True)
    named = dict(zip(names, analyses, strict=True))
    side_by_side = _table(named)
    sections = [f"# {' against '.join(names)}", side_by_side, _tests(named), *_settings(named)]
    reason = _draw(named, output / "comparison.png")
    sections.append(reason or "![validation loss and composite gain of each ablation's variants](comparison.png)")
    sections += [f"{name}: {note}" for name, analysis in named.items() for note in analysis.notes]
    text = "\n\n".join(filter(None, sections)) + "\n"
    path = output / "comparison.md"
    replace_file(path, text)
    return side_by_side, path


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with their parents' where two are alike."""
    resolved = [folder.resolve() for folder in folders]
    names = [folder.name for folder in resolved]
    return names if len(set(names)) == len(names) else [f"{folder.parent.name}/{folder.name}" for folder in resolved]


def _variants(named: dict[str, Analysis]) -> list[str]:
    """All variants; those that several ablations share come first."""
    every = list(dict.fromkeys(v for analysis in named.values() for v in analysis.ablation.variants))
    return sorted(every, key=lambda v: -sum(v in a.ablation.variants for a in named.values()))


def _table(named: dict[str, Analysis]) -> str:
    rows = []
    for variant in _variants(named):
        for name, analysis in named.items():
            if variant not in analysis.ablation.variants:
                continue
            losses = list(analysis.losses.get(variant, {}).values())
            mark = " (not trained)" if analysis.untrained(variant) else ""
            row = [variant, name, f"{len(losses)}/{len(analysis.ablation.of(variant))}", spread(losses) + mark]
            row += [extent(analysis.gains(variant, key), gain) for key in ("gain_forward", "gain_backward")]
            keys = ("params", "step_ms", "tokens_per_s", "peak_memory_mb")
            rows.append(row + [significant(analysis.median(variant, key)) for key in keys])
    header = ["variant", "ablation", "n", "val loss", "gain forward", "gain backward"]
    header += ["parameters", "step ms", "tokens/s", "peak MB"]
    budget = next((analysis.budget_text for analysis in named.values() if analysis.losses), "")
    text = f"Validation loss in nats per token at {budget}." if budget else "No validation loss was measured."
    return f"{table(header, rows)}\n\n{text}"


def _tests(named: dict[str, Analysis]) -> str:
    """Each variant against itself in the first ablation: paired by seed where the data agree, else Welch's test."""
    (first, base), *others = named.items()
    differences, kinds = [], {}
    for name, analysis in others:
        for variant in _variants(named):
            one, other = analysis.losses.get(variant), base.losses.get(variant)
            if not one or not other or analysis.untrained(variant) or base.untrained(variant):
                continue
            a, b = f"{variant} in {name}", f"{variant} in {first}"
            same = _same_data(base, analysis, variant) and len(set(one) & set(other)) > 1
            difference = paired(a, b, {a: one, b: other}) if same else _welch(a, b, one, other)
            differences.append(difference)
            kinds[a, b] = "paired by seed" if same else "Welch"
    if not differences:
        return "No variant is trained in more than one of them, so nothing is tested."
    rows = []
    for d in holm(differences):
        ps = [p_column(p) for p in (d.p, d.adjusted)]
        smallest = NONE if math.isnan(d.smallest) else f"{d.smallest:.2g}"
        rows.append([f"{d.variant} - {d.reference}", kinds[d.variant, d.reference], signed(d.mean), *ps, smallest])
    return table(["difference in val loss", "test", "mean", "p", "p (Holm)", "smallest it could have shown"], rows)


def _welch(a: str, b: str, one: dict[int, float], other: dict[int, float]) -> Difference:
    x, y = list(one.values()), list(other.values())
    tested = min(len(x), len(y)) > 1 and len({*x}) + len({*y}) > 2
    p = float(stats.ttest_ind(x, y, equal_var=False).pvalue) if tested else math.nan
    mean = sum(x) / len(x) - sum(y) / len(y)
    return Difference(a, b, (), mean, math.nan, (math.nan, math.nan), p, math.nan)


def _same_data(one: Analysis, other: Analysis, variant: str) -> bool:
    configs = [next((c.config.get("data") for c in a.ablation.of(variant) if c.config), None) for a in (one, other)]
    return configs[0] is not None and configs[0] == configs[1]


def _settings(named: dict[str, Analysis]) -> list[str]:
    """What the configurations of the shared variants differ in."""
    (first, base), *others = named.items()
    lines: dict[str, None] = {}
    for name, analysis in others:
        for variant in base.ablation.variants:
            cells = [next((c for c in a.ablation.of(variant) if c.config), None) for a in (base, analysis)]
            if None in cells:
                continue
            one, other = (cell.settings for cell in cells if isinstance(cell, Cell))
            for path in sorted(set(one) | set(other)):
                if one.get(path) != other.get(path):
                    values = f"`{one.get(path)}` in {first}, `{other.get(path)}` in {name}"
                    lines[f"- {variant}: `{path}` is {values}"] = None
    return ["What their configurations differ in:\n\n" + "\n".join(lines)] if lines else []


def _draw(named: dict[str, Analysis], path: Path) -> str | None:
    """Validation loss and composite forward gain over training: a colour a variant, a line style an ablation."""
    with mpl.rc_context(style.STYLE):
        variants = _variants(named)
        hues = style.colours(variants, next(iter(named.values())).ablation.baseline)
        made, panels = style.figure(2, " against ".join(named), width=5.2)
        gains: list[float] = []
        ends: tuple[dict[str, tuple[float, str]], ...] = ({}, {})
        for line, analysis in zip(LINES * len(named), named.values(), strict=False):
            for variant in variants:
                cells = analysis.ablation.of(variant, "finished")
                composites = [cell.series(GAIN + "forward").dropna() for cell in cells]
                gains += [value for series in composites for value in series if math.isfinite(value)]
                for panel, place, series in zip(
                    panels, ends, ([cell.validation() for cell in cells], composites), strict=True
                ):
                    mean = style.curve(panel, [s for s in series if len(s)], hues[variant], line)
                    if len(mean):
                        place.setdefault(variant, (float(mean.iloc[-1]), hues[variant]))
        if not any(ends):
            return "comparison.png: neither loss nor gain was measured"
        panels[0].set(title="validation loss", ylabel="cross-entropy (nats per token)")
        panels[1].set(title="composite forward gain, mean over probe tokens", ylabel="gain (log scale)")
        style.log_gain(panels[1], gains)
        for panel in panels:
            style.budget_axis(panel, "optimizer steps")
        style.label_ends(dict(zip(panels, ends, strict=True)))
        styles = ("solid", "dashed", "dotted", "dash-dotted") * len(named)
        caption = "; ".join(f"{kind}: {name}" for kind, name in zip(styles, named, strict=False))
        style.save(made, path, f"{caption}; line: mean over seeds, band: smallest to largest")
    return None
