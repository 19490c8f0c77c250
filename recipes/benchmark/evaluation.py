"""How long `recipes.evaluate` takes on as many pages as OmniDocBench has: made-up truth, and predictions with slips."""

import json
import random
import re
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

import recipes
from encoders.benchmark.rounds import CannotMeasure, Spread, spread
from recipes.benchmark.settings import PLACE, Settings
from recipes.documents.generate import SILENT, Generator, Page, Placed
from recipes.documents.options import Contents
from recipes.documents.text import Corpus
from recipes.documents.tree import Document

FILE = "evaluation.csv"
SCORES = {
    "text_edit_distance": ("text_block", "edit_distance"),
    "formula_edit_distance": ("display_formula", "edit_distance"),
    "table_teds": ("table", "teds"),
    "table_teds_structure": ("table", "teds_structure"),
    "table_edit_distance": ("table", "edit_distance"),
    "order_edit_distance": ("reading_order", "edit_distance"),
}
COLUMNS = (
    "pages", "blocks_per_page", "characters_per_page", "tables", "processes", "seconds", "seconds_p10", "seconds_p90",
    "pages_per_s", "rounds", *SCORES, *PLACE,
)  # fmt: skip
PROCESSES, RUNS = 2, 3
GOAL = 120.0
WIDTH, HEIGHT = 1024, 1448
# of one page after another: one in ten is a newspaper's. OmniDocBench's demo pages have 2,600 characters, 21 blocks and
# 19 cells of tables on average; these have more of each
TEXT_SIZES = (28.0,) * 9 + (14.0,)
TABLE, FORMULA, ROWS = 0.06, 0.06, 16
# shares of what a prediction gets wrong: letters and digits, neighbouring blocks that are exchanged, cells with another
# content, cells that are left out
LETTERS, BLOCKS, CELLS, LOST_CELLS = 0.03, 0.1, 0.1, 0.02
_CELL = re.compile(r"<td([^>]*)>(.*?)</td>")
_NOWHERE = ((0.0, 0.0),) * 4


def rows(settings: Settings) -> Iterator[dict[str, Any]]:
    """One row.

    Raises:
        CannotMeasure: the command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        shape = write_pages(Path(folder), settings.pages, Corpus.read())
        runs = [evaluate(Path(folder), f"run {number} of {RUNS}") for number in range(1, RUNS + 1)]
    taken = spread([seconds for seconds, _ in runs])
    row = {"pages": settings.pages, **shape, "processes": PROCESSES, **taken.columns("seconds")}
    row |= {"pages_per_s": settings.pages / taken.median, "rounds": RUNS}
    yield row | runs[0][1]


def write_pages(folder: Path, count: int, corpus: Corpus, slips: float = 1.0) -> dict[str, Any]:
    """Write truth.json and the predictions of so many pages; returns what stands on them, as columns.

    Nothing is set or drawn: blocks are where no place counts, and all of them are on the page.

    Args:
        folder: gets them.
        count: of pages.
        corpus: of the words.
        slips: times the shares of what the predictions get wrong; 0 makes them perfect.
    """
    generators = [
        Generator(corpus, 0, WIDTH, HEIGHT, Contents(text_size=size, table=TABLE, formula=FORMULA, rows=ROWS))
        for size in TEXT_SIZES
    ]
    (folder / "predictions").mkdir()
    records, letters = [], 0
    for number in track(range(count), description="pages"):
        (document,) = generators[number % len(generators)].documents([number])
        page, name = _page(document), f"page-{number:06d}"
        records.append(page.record(f"{name}.png", number))
        letters += len(page.markdown)
        (folder / "predictions" / f"{name}.md").write_text(perturbed(page.markdown, number, slips) + "\n")
    (folder / "truth.json").write_text(json.dumps(records))
    blocks = [block for record in records for block in record["layout_dets"]]
    tables = sum(block["category_type"] == "table" for block in blocks)
    return {"blocks_per_page": len(blocks) / count, "characters_per_page": letters / count, "tables": tables}


def perturbed(markdown: str, number: int, slips: float = 1.0) -> str:
    """A page's text as a model of some errors reads it, the same for the same number.

    Args:
        markdown: blocks between empty lines.
        number: of the page.
        slips: times the shares of what is wrong.
    """
    draw = random.Random(number)
    blocks = [
        _table(block, draw, slips) if block.startswith("<table>") else _text(block, draw, LETTERS * slips)
        for block in markdown.split("\n\n")
    ]
    for place in range(len(blocks) - 1):
        if draw.random() < BLOCKS * slips:
            blocks[place], blocks[place + 1] = blocks[place + 1], blocks[place]
    return "\n\n".join(blocks)


def evaluate(folder: Path, label: str = "recipes.evaluate") -> tuple[float, dict[str, float]]:
    """Run `recipes.evaluate` on a folder; returns seconds, its start included, and the means of the scores.

    Args:
        folder: as `write_pages` leaves it.
        label: shown beside what the command says.

    Raises:
        CannotMeasure: it failed.
    """
    given = {"predictions": "predictions", "ground-truth": "truth.json", "output": "scores.json"}
    arguments = [part for option, name in given.items() for part in (f"--{option}", str(folder / name))]
    # seconds mean the same with TeX and without
    command = [sys.executable, "-m", "recipes.evaluate", *arguments, "--jobs", str(PROCESSES), "--no-cdm"]
    # from where this code stands, whatever is installed
    home = Path(recipes.__file__).parents[1]
    told = ""
    begun = time.perf_counter()
    with (
        Console().status(label) as status,
        subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            told = line.strip() or told
            status.update(f"{label}: {told}")
    seconds = time.perf_counter() - begun
    if process.returncode:
        raise CannotMeasure(f"recipes.evaluate ended with {process.returncode}: {told}")
    return seconds, scores_of(folder)


def scores_of(folder: Path) -> dict[str, float]:
    """The means in scores.json, as columns."""
    scores = json.loads((folder / "scores.json").read_text())
    return {name: scores[element][metric] for name, (element, metric) in SCORES.items()}


def table(found: Sequence[Mapping[str, Any]]) -> Table:
    """The rows, for the terminal."""
    shown = Table(title="recipes.evaluate; median (p10 to p90)")
    for column in ("pages", "processes", "seconds", "pages/s", "text ED", "formula ED", "TEDS", "TEDS-S", "order ED"):
        shown.add_column(column, justify="right", no_wrap=True)
    names = [name for name in SCORES if name != "table_edit_distance"]
    for row in found:
        scores = ["–" if row[name] is None else f"{row[name]:.4f}" for name in names]
        seconds = Spread.read(row, "seconds")
        shown.add_row(f"{row['pages']:,}", f"{row['processes']}", f"{seconds}", f"{row['pages_per_s']:.1f}", *scores)
    return shown


def goals(found: Sequence[Mapping[str, Any]]) -> str:
    """Whether it took less than two minutes."""
    row = found[0]
    state = "reached" if row["seconds"] < GOAL else "not reached"
    return (
        f"  {state:12}  {row['pages']:,} pages scored in less than {GOAL:g} s by {row['processes']} processes: "
        f"{Spread.read(row, 'seconds')} s"
    )


def _page(document: Document) -> Page:
    blocks = sorted(document.blocks(), key=lambda block: isinstance(block, SILENT))
    return Page(document, tuple(Placed(block, _NOWHERE) for block in blocks), Image.new("L", (1, 1)))


def _text(block: str, draw: random.Random, share: float) -> str:
    return "".join(
        draw.choice(string.ascii_letters) if letter.isalnum() and draw.random() < share else letter for letter in block
    )


def _table(block: str, draw: random.Random, slips: float) -> str:
    def cell(found: re.Match[str]) -> str:
        if draw.random() < LOST_CELLS * slips:
            return ""
        content = str(draw.randrange(1000)) if draw.random() < CELLS * slips else found[2]
        return f"<td{found[1]}>{content}</td>"

    return _CELL.sub(cell, block)
