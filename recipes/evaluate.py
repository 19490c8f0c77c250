"""Score pages of Markdown against OmniDocBench's ground truth.

    python -m recipes.evaluate --predictions FOLDER --ground-truth FILE.json --output SCORES.json
    python -m recipes.evaluate --checkpoint FOLDER --images FOLDER --ground-truth FILE.json --output SCORES.json

The second form reads the pages first (recipes.read, whose options may follow) and leaves one `<image>.md` a page, which
the benchmark's own tool can score, too. Scores are those of OmniDocBench v1.5: means over pages. CDM of formulas is
among them where a TeX is on PATH and --no-cdm is not given.

Exit codes: 0 all pages were scored, 1 some are broken (one line each, the rest was scored), 2 nothing could be scored
or bad arguments, 130 interrupted.
"""

import sys
from collections.abc import Sequence

from recipes.errors import UserError
from recipes.evaluation.console import Console, tell
from recipes.evaluation.formulas import compare_pages
from recipes.evaluation.options import Options, parse
from recipes.evaluation.predictions import list_predictions
from recipes.evaluation.run import Outcome, evaluate
from recipes.evaluation.scores import summarise
from recipes.evaluation.truth import read_truth
from recipes.metrics.formula_drawing import TeXError, find_engine

UNREADABLE, INTERRUPTED = 2, 130
NAMED = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate what the command line names; returns the exit code."""
    try:
        return _main(parse(arguments))
    except UserError as error:
        tell(f"error: {error}")
        return UNREADABLE
    except KeyboardInterrupt:
        tell("interrupted; no scores were written")
        return INTERRUPTED


def _main(options: Options) -> int:
    pages, broken = read_truth(options.truth)
    if not pages:
        raise UserError(f"--ground-truth: {broken[0]}, and no other entry is a page")
    if options.output.is_dir():
        raise UserError(f"--output: {options.output} is a folder; give a file")
    if options.checkpoint is not None:
        from recipes.evaluation.reading import read_pages  # torch is slow to import

        code = read_pages(options, pages)
        if code in (UNREADABLE, INTERRUPTED):
            return code
    predictions, strangers = list_predictions(options.predictions, pages)
    console = Console(len(predictions))
    with console:
        outcome = evaluate(pages, predictions, options.jobs, console.step)
    for complaint in [*broken, *(f"{name}: {reason}" for name, reason in outcome.broken.items())]:
        tell(f"error: {complaint}")
    if not outcome.scores:
        raise UserError("no page could be scored")
    undrawn, left_out = _compare_formulas(options, outcome)
    scores = summarise(pages, outcome.scores)
    _write(options, scores, outcome, broken, left_out)
    console.table(scores, f"{options.predictions} against {options.truth.name}")
    _notes(console, outcome, [path.name for path in strangers], undrawn)
    if broken:
        console.line(f"{len(broken)} entries of the truth are no pages")
    for reason in left_out:
        console.line(reason)
    console.line(str(options.output))
    return 1 if outcome.broken or broken else 0


def _compare_formulas(options: Options, outcome: Outcome) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Draw and compare the formulas; returns what was not drawn, by reason and page, and why CDM is left out."""
    if not options.cdm:
        return {}, ["CDM is left out: --no-cdm was given"]
    try:
        engine = find_engine()
    except TeXError as error:
        return {}, [f"CDM is left out: it draws formulas with TeX, and {error}"]
    with Console(sum(len(page.formulas) for page in outcome.scores.values()), "formulas") as console:
        return compare_pages(outcome.scores, engine, options.jobs, console.step), []


def _write(options: Options, scores: dict, outcome: Outcome, broken: list[str], left_out: list[str]) -> None:
    from recipes.files import replace_json

    content = {
        **scores,
        "missing": outcome.missing,
        "broken": {**outcome.broken, **{entry.partition(":")[0]: entry for entry in broken}},
        "left_out": left_out,
    }
    try:
        replace_json(options.output, content)
    except OSError as error:
        raise UserError(f"--output: {options.output} cannot be written ({error.strerror or error})") from error


def _notes(console: Console, outcome: Outcome, strangers: list[str], undrawn: dict[str, dict[str, int]]) -> None:
    for names, what in (
        (outcome.missing, "without a prediction, in no average as in the benchmark"),
        (strangers, "of no page in the truth, not scored"),
        (list(outcome.broken), "broken, in no average"),
        *(
            (list(pages), f"with {sum(pages.values())} formulas {reason}, of score 0")
            for reason, pages in undrawn.items()
        ),
    ):
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            console.line(f"{len(names)} {what}: {', '.join(names[:NAMED])}{more}")


if __name__ == "__main__":
    sys.exit(main())
