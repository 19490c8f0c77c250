"""Make an ablation's report again from its cells' files, or set ablations side by side.

    python -m recipes.report results/mhc_vs_hc [results/other ...] [--at steps|flops|time] [--output DIR]

Prints the answer in one sentence. Exit code 2, with one line that says why, where there is nothing to report.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from recipes.files import replace_file
from recipes.reports.analysis import BUDGETS, analyse
from recipes.reports.answer import answer
from recipes.reports.compare import write_comparison
from recipes.reports.figures import draw
from recipes.reports.markdown import report
from recipes.reports.reading import read_ablation


def write_report(folder: Path, at: str = "steps") -> str:
    """Write report.md, summary.csv and the PNGs of `results/<ablation>`, each whole or not at all.

    Losses are compared `at` the largest number of steps, FLOPs or seconds that all finished cells reached. Returns
    the answer. Raises FileNotFoundError, in one line, where the folder is missing or holds no cell.
    """
    folder = Path(folder)
    analysis = analyse(read_ablation(folder), at)
    pictures, left_out = draw(analysis, folder)
    table = analysis.ablation.summary()
    replace_file(folder / "summary.csv", table.to_csv(index=False))
    text = report(analysis, pictures, left_out)
    replace_file(folder / "report.md", text)
    return answer(analysis)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.report", description="Report on ablations from their files."
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="results/ABLATION")
    parser.add_argument("--at", choices=list(BUDGETS), default="steps", help="the budget to compare losses at")
    parser.add_argument("--output", type=Path, help="where a comparison goes; default: A-vs-B beside the first folder")
    chosen = parser.parse_args(arguments)
    try:
        for folder in dict.fromkeys(chosen.folders):
            print(f"{write_report(folder, chosen.at)}\n{folder / 'report.md'}")
        if len(set(chosen.folders)) > 1:
            table, path = write_comparison(list(dict.fromkeys(chosen.folders)), chosen.at, chosen.output)
            print(f"\n{table}\n\n{path}")
    except OSError as error:
        print(f"recipes.report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
