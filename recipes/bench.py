"""Time what the recipes do, on this machine's CPU: `make bench`, or `python -m recipes.bench`.

| part | what | written to |
|---|---|---|
| step | the language model's training step under each residual topology, beside peers | training_step.csv |
| loading | the share of data loading in the training steps of the tiny stages and of glyph pages | data_loading.csv |
| reading | pages a second of recipes.read by batch size | reading.csv |
| evaluation | recipes.evaluate on as many pages as OmniDocBench has | evaluation.csv |

Files stand under results/bench/. What is compared takes turns in one process.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from encoders.benchmark.rounds import CannotMeasure
from kernels.benchmark.record import Record
from recipes.benchmark import evaluation, loading, reading, training_step
from recipes.benchmark.settings import Settings, machine

# loading last: as training does, it changes how this process keeps freed memory
PARTS = {"step": training_step, "reading": reading, "evaluation": evaluation, "loading": loading}
DEFAULT = " (default %(default)s)"


def main(given: list[str] | None = None) -> int:
    """Measure, write, report; 2 where a part that was asked for cannot run here."""
    parser = argparse.ArgumentParser(prog="python -m recipes.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--steps", type=int, default=Settings.steps, help=f"timed of each variant in step{DEFAULT}")
    parser.add_argument("--warm-up", type=int, default=Settings.warm_up, help=f"steps before the timing{DEFAULT}")
    parser.add_argument(
        "--loading-steps", type=int, default=Settings.loading_steps, help=f"timed of each in loading{DEFAULT}"
    )
    parser.add_argument("--rounds", type=int, default=Settings.rounds, help=f"of reading{DEFAULT}")
    parser.add_argument("--pages", type=int, default=Settings.pages, help=f"in evaluation{DEFAULT}")
    parser.add_argument("--output", type=Path, default=Path("results/bench"), help=f"folder{DEFAULT}")
    options = parser.parse_args(given)
    if options.steps < 2 or options.loading_steps < 2 or options.warm_up < 0:
        parser.error("--steps and --loading-steps must be at least 2 and --warm-up not negative")
    if options.rounds < 3 or options.pages < 1:
        parser.error("--rounds must be at least 3 and --pages at least 1")
    settings = Settings(options.steps, options.warm_up, options.loading_steps, options.rounds, options.pages)
    console, where, verdicts, code = Console(), machine(), [], 0
    # tables are wider than what a terminal that is none gives them
    console = Console(width=max(console.width, 120))
    for name in (name for name in PARTS if name in (options.parts or PARTS)):
        part = PARTS[name]
        record = Record(options.output / part.FILE, part.COLUMNS)
        place = {column: where[column] for column in part.COLUMNS if column in where}
        try:
            for row in part.rows(settings):
                record.add(place | row)
        except CannotMeasure as error:
            print(f"recipes.bench: {error}", file=sys.stderr)
            code = 2
            continue
        console.print(part.table(record.rows))
        verdicts.append(part.goals(record.rows))
        print(f"written: {record.path}")
    print("\n".join(["goals:", *verdicts] if verdicts else ["goals: nothing was measured"]))
    return code


if __name__ == "__main__":
    sys.exit(main())
