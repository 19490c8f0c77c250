"""The text of a report: the answer, the tables behind it, and what it was measured on."""

import math
from collections.abc import Callable, Sequence

from recipes.reports import gains, provenance, published, queries
from recipes.reports.analysis import MATCHED, STEADY, Analysis
from recipes.reports.answer import answer
from recipes.reports.cells import DATA, ENDED, one_line
from recipes.reports.format import (
    NONE,
    count,
    extent,
    gain,
    listed,
    loss,
    p_column,
    p_value,
    percent,
    signed,
    significant,
    table,
    whole,
)
from recipes.reports.statistics import Difference, mean_sd, t_interval
from recipes.rounding import NOTICED


def report(analysis: Analysis, pictures: Sequence[str], left_out: Sequence[str]) -> str:
    """The whole of report.md."""
    ablation = analysis.ablation
    sections = [f"# {ablation.name}", ablation.question, f"`{ablation.command}`" if ablation.command else ""]
    sections += [f"**{answer(analysis)}**", _headline(analysis), _budget(analysis)]
    sections += [_picture(name) for name in pictures if name not in ("cost.png", "query_order.png")]
    sections += published.section(analysis)
    sections += ["## Loss", _losses(analysis), _differences(analysis), *_trained(analysis), *analysis.notes]
    sections += _order(analysis)
    sections += gains.section(analysis)
    sections += [*queries.section(analysis), *(_picture(name) for name in pictures if name == "query_order.png")]
    sections += ["## Cost", _cost(analysis), *(_picture(name) for name in pictures if name == "cost.png")]
    sections += _cells(analysis)
    if left_out:
        sections += ["## Not drawn", "\n".join(f"- {line}" for line in left_out)]
    sections += ["## Measured on", provenance.describe(ablation)]
    return "\n\n".join(filter(None, sections)) + "\n"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation of losses, as far as n allows."""
    mean, sd = mean_sd(values)
    return loss(mean) if math.isnan(sd) else f"{mean:.4f} ± {sd:.4f}"


def _accuracy(values: Sequence[float]) -> str:
    """Mean and standard deviation of token accuracies in per cent, and how many there are."""
    mean, sd = mean_sd(values)
    if math.isnan(mean):
        return NONE
    return percent(mean) if math.isnan(sd) else f"{100 * mean:.1f} ± {100 * sd:.1f} % (n = {len(values)})"


def _picture(name: str) -> str:
    alternatives = {
        "loss.png": "training and validation loss by variant, and the paired differences that are compared",
        "gain_by_depth.png": "composite forward and backward gain by depth, log scale",
        "gain_by_step.png": "composite forward and backward gain over training, log scale",
        "sweep.png": "composite gain and validation loss along each axis of numbers",
        "tokens.png": "accuracy by visual tokens to the decoder, and by answer tokens for each of them",
        "query_order.png": "a page with the path of the queries on it, a panel for each variant",
        "cost.png": "step time over the baseline's against validation loss",
    }
    return f"![{alternatives[name]}]({name})"


def _headline(analysis: Analysis) -> str:
    rows = []
    one_axis = len(analysis.ablation.axes) < 2 and any(map(analysis.difference, analysis.ablation.variants))
    read = any(analysis.accuracies(variant) for variant in analysis.ablation.variants)
    costs = {"step_ms": "step ms", "tokens_per_s": "tokens/s"} if analysis.unsteady <= STEADY else {}
    costs |= {"peak_memory_mb": "peak MB"}
    ordered = any(analysis.order_accuracies(variant) for variant in analysis.ablation.variants)
    pages = any(not math.isnan(analysis.median(variant, DATA[0])) for variant in analysis.ablation.variants)
    for variant in analysis.ablation.variants:
        d = analysis.difference(variant)
        mark = " (not trained)" if analysis.untrained(variant) else ""
        row = [variant, f"{len(analysis.ablation.of(variant, 'finished'))}/{analysis.ablation.planned(variant)}"]
        row.append(spread(list(analysis.losses.get(variant, {}).values())) + mark)
        row += [_accuracy(analysis.accuracies(variant))] if read else []
        row += [_accuracy(analysis.order_accuracies(variant))] if ordered else []
        row += [significant(analysis.median(variant, name)) for name in DATA] if pages else []
        if one_axis:
            row.append((f"{signed(d.mean)} ({p_value(d.p)})" if d.n > 1 else signed(d.mean)) if d else NONE)
        if analysis.mixes:
            row += [extent(analysis.gains(variant, name), gain) for name in ("gain_forward", "gain_backward")]
        row += [significant(analysis.median(variant, name)) for name in costs]
        rows.append(row)
    header = ["variant", "finished", "val loss", *(["token accuracy"] if read else [])]
    header += ["order accuracy"] if ordered else []
    header += ["visual tokens to the decoder", "answer tokens a visual token"] if pages else []
    header += [f"minus {analysis.ablation.baseline}"] if one_axis else []
    header += ["gain forward", "gain backward"] if analysis.mixes else []
    header += list(costs.values())
    text = (
        "\n\nOrder accuracy is that of the tokens which the order of the page decides, and not what was read before"
        + (
            "."
            if math.isnan(analysis.blind)
            else f"; without the order {percent(analysis.blind)} are right on average."
        )
    )
    return table(header, rows) + (text if ordered else "")


def _losses(analysis: Analysis) -> str:
    rows = []
    for variant in analysis.ablation.variants:
        values = list(analysis.losses.get(variant, {}).values())
        low, high = t_interval(values)
        interval = NONE if math.isnan(low) else f"{low:.4f} to {high:.4f}"
        priors = [p for cell in analysis.ablation.of(variant, "finished") if not math.isnan(p := cell.prior())]
        counts = [str(len(analysis.ablation.of(variant, status))) for status in ENDED]
        rows.append([variant, str(len(values)), *counts, spread(values), interval, extent(priors, loss)])
    header = ["variant", "n", *ENDED, "val loss, mean ± sd", "95 % t interval", "prior's loss"]
    text = f"Validation cross-entropy in nats per token at {analysis.budget_text}; n seeds are compared."
    return f"{text}\n\n{table(header, rows)}" if analysis.losses else "No validation loss was measured."


def _differences(analysis: Analysis) -> str:
    if not analysis.differences:
        return ""
    text = (
        "Differences are paired by seed (same data order), with a two-sided paired t-test, p also corrected for the "
        "number of tests (Holm). The last column is the true difference that a test of this n finds four times in "
        "five at the .05 level, given the sd of the paired differences; with few seeds that sd is itself uncertain."
    )
    named = bool(analysis.ablation.comparisons)
    if max(d.n for d in analysis.differences) < 2:
        whose = "that `ablation.comparisons` names" if named else "of variants"
        text = f"No pair {whose} has two finished seeds in common (n < 2), so nothing is tested."
    elif named:
        text += " They are those that `ablation.comparisons` names; no others were tested."
    if any(cell.status == "diverged" for cell in analysis.ablation.cells):
        text += " Diverged cells have no final loss: the differences are those of the seeds that survived."
    return f"{_tests(analysis.differences, signed)}\n\n{text}"


def _order(analysis: Analysis) -> list[str]:
    """The same of order accuracies, where a pair has two seeds."""
    differences = analysis.order_differences
    if max((d.n for d in differences), default=0) < 2:
        return []
    text = "Differences of order accuracy in points, tested as those of the loss are."
    return ["## Order accuracy", _tests(differences, "{:+.1f}".format), text]


def _tests(differences: Sequence[Difference], shown: Callable[[float], str]) -> str:
    rows = []
    for d in differences:
        low, high = d.interval
        interval = NONE if math.isnan(low) else f"{shown(low)} to {shown(high)}"
        ps = [p_column(p) for p in (d.p, d.adjusted)]
        smallest = NONE if math.isnan(d.smallest) else f"{d.smallest:.2g}"
        rows.append(
            [f"{d.variant} - {d.reference}", str(d.n), shown(d.mean), shown(d.sd).lstrip("+"), interval, *ps, smallest]
        )
    header = ["difference", "n", "mean", "sd", "95 % interval", "p", "p (Holm)", "smallest it could have shown"]
    return table(header, rows)


def _trained(analysis: Analysis) -> list[str]:
    untrained = {v: seeds for v in analysis.ablation.variants if (seeds := analysis.untrained(v))}
    lines = [
        f"**{variant} is not trained** at seed{'s'[: len(seeds) > 1]} {listed([str(s) for s in seeds])}: its final "
        "loss is not 1 % below its prior's, so a difference, or the lack of one, says nothing."
        for variant, seeds in untrained.items()
    ]
    rule = (
        "A variant counts as trained where its final validation loss is more than 1 % below its prior's: the recorded "
        "prior loss, or else the smaller of ln(vocabulary) and the loss measured before the first step."
    )
    finished = [cell for cell in analysis.ablation.cells if cell.status == "finished"]
    unknown = [cell.name for cell in finished if math.isnan(cell.prior())]
    coarse = [
        f"**{percent(share)} of {variant}'s weights were too coarse for a step of a tenth of the learning rate**, and "
        "rounded it off."
        for variant in analysis.ablation.variants
        if (share := analysis.median(variant, "lost_share")) >= NOTICED
    ]
    return [*lines, *coarse, rule + (f" Not known for {listed(unknown)}." if unknown else "")] if finished else []


def _cost(analysis: Analysis) -> str:
    base = analysis.median(analysis.ablation.baseline, "step_ms")
    rows = []
    for variant in analysis.ablation.variants:
        step, low, high = (analysis.median(variant, name) for name in ("step_ms", "step_ms_p10", "step_ms_p90"))
        times = significant(step) + ("" if math.isnan(low + high) else f" [{significant(low)} to {significant(high)}]")
        row = [variant, whole(analysis.median(variant, "params"))]
        row += [significant(analysis.median(variant, "flops_per_token")), times, significant(step / base)]
        rows.append(
            [*row, *(significant(analysis.median(variant, name)) for name in ("tokens_per_s", "peak_memory_mb"))]
        )
    header = ["variant", "parameters", "FLOPs/token", "step ms, median [p10 to p90]"]
    header += [f"over {analysis.ablation.baseline}", "tokens/s", "peak memory, MB"]
    text = "Medians over the finished cells; FLOPs are of a training step, forward and backward."
    if analysis.shared:
        many, every = len(analysis.shared), len(analysis.ablation.cells)
        text += f" **{many} of {every} cells ran beside others: their times and tokens/s are of a shared machine.**"
    if analysis.unsteady > STEADY:
        text += (
            " **Step times of cells that cost the same differ by a factor of up to "
            f"{analysis.unsteady:.1f}: the machine had other work, and no times here compare.**"
        )
    lows, highs = ({v: analysis.median(v, f"step_ms_p{k}") for v in analysis.ablation.variants} for k in (10, 90))
    if unsteady := [variant for variant, low in lows.items() if highs[variant] > 2 * low]:
        text += f" The steps of {listed(unsteady)} were unsteady (p90 over twice p10): the machine had other work."
    return f"{table(header, rows)}\n\n{text}"


def _budget(analysis: Analysis) -> str:
    parameters, tokens = analysis.spread("params"), analysis.spread("tokens")
    parts = []
    if not math.isnan(parameters):
        matched = "matched" if parameters <= MATCHED else "not matched"
        first = analysis.spread_along_first("params")
        if first <= MATCHED < parameters:
            first_axis, *others = analysis.ablation.axes
            matched = f"matched along {first_axis} (spread at most {first:.2%}), and along {listed(others)} not"
        parts.append(f"parameters {matched} (spread {parameters:.2%})")
    if not math.isnan(tokens):
        parts.append("tokens equal" if tokens == 0 else f"tokens not equal (spread {tokens:.2%})")
    flops = analysis.spread("flops_per_token")
    if not math.isnan(flops):
        parts.append("FLOPs per token equal" if flops == 0 else f"FLOPs per token differ by {flops:.2%}")
    chosen: dict[str, dict[str, str]] = {}
    for cell in analysis.ablation.cells:
        for path, value in cell.matched.items():
            chosen.setdefault(str(path), {})[cell.variant] = str(value)
    text = f"Budget: {'; '.join(parts)}." if parts else "Budget: not measured."
    for path, by in chosen.items():
        values: dict[str, list[str]] = {}
        for variant, value in by.items():
            values.setdefault(value, []).append(variant)
        shown = [f"{value} for {_named(analysis, variants)}" for value, variants in values.items()]
        text += f" Matched by `{path}`: {listed(shown)}."
    return text


def _named(analysis: Analysis, variants: Sequence[str]) -> str:
    """The variants by name, or by their levels on the first axis where these are all that have them."""
    axis = next(iter(analysis.ablation.axes), "")
    of = {variant: analysis.ablation.levels(variant).get(axis, variant) for variant in analysis.ablation.variants}
    levels = list(dict.fromkeys(of[variant] for variant in variants))
    complete = len(variants) == sum(level in levels for level in of.values())
    return f"all with {listed(levels)}" if complete and len(variants) > len(levels) else listed(list(variants))


def _cells(analysis: Analysis) -> list[str]:
    """What did not end well, with its error, and what could not be read."""
    lines = []
    for cell in analysis.ablation.cells:
        if cell.status == "finished":
            continue
        why = one_line(cell.record.get("error")) or one_line(cell.record.get("reason"))
        at = "" if math.isnan(cell.steps) else f" at step {cell.steps:.0f}"
        lines.append(f"- {cell.name}: {cell.status}{at}{f' ({why})' if why else ''}")
    lines += [f"- {name}: not run" for name in analysis.ablation.missing]
    sections = ["## Cells that did not finish", "\n".join(lines)] if lines else []
    if problems := analysis.ablation.problems:
        head = f"{count(len(problems), 'file')} could not be read wholly:"
        sections += ["## Files", "\n".join([head, "", *(f"- {line}" for line in problems)])]
    return sections
