"""Time the making of pages: composing, typst, rendering, packing; by page size and mode, on one core."""

import os
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console

from kernels.benchmark.record import Record, place
from recipes.documents.cache import write_pages
from recipes.documents.generate import TOGETHER, Generator
from recipes.documents.options import Contents
from recipes.documents.text import Corpus
from recipes.documents.typst import compile_pdf, source

# width, height, text size
SIZES = ((128, 160, 9.0), (192, 256, 9.0), (256, 320, 10.0), (512, 640, 12.0), (1024, 1448, 20.0))
ROUNDS = 5
COLUMNS = (
    *("width", "height", "text_size", "mode", "degradation", "pages", "characters_per_page", "blocks_per_page"),
    *("compose_ms", "typst_ms", "total_ms", "total_ms_median", "pages_per_second", "threads"),
    *("device", "torch", "commit", "dirty", "date"),
)


def bench(path: Path, text: str | None = None) -> int:
    """Time each size, and write a row of it to a CSV file.

    Times are of the processor, not of the clock, and of the fastest of five rounds: a busy machine slows the others.
    """
    # typst compiles on several threads otherwise; one core is what is asked about
    os.environ["RAYON_NUM_THREADS"] = "1"
    corpus, record, where = Corpus.read(text), Record(path, COLUMNS), place("cpu")
    console = Console()
    for width, height, size in SIZES:
        for mode, degradation in (("prose", 0.0), ("random_words", 0.5)):
            generator = Generator(corpus, 0, width, height, Contents(text_size=size), mode, degradation)
            row = _times(generator) | {key: where[key] for key in COLUMNS if key in where}
            record.add(row)
            console.print(
                f"{width} x {height}, {mode}, degradation {degradation:g}: {row['total_ms']:.2f} ms a page, "
                f"{row['pages_per_second']:.0f} pages/s a core"
            )
    return 0


def _times(generator: Generator) -> dict:
    generator.pages(range(2))
    compose, compiling, total = [], [], []
    letters = blocks = 0
    for number in range(ROUNDS):
        # other pages each time: typst remembers what it has set
        numbers = range(number * TOGETHER, (number + 1) * TOGETHER)
        with tempfile.TemporaryDirectory() as folder:
            begin = time.process_time()
            pages = generator.pages(numbers)
            write_pages(Path(folder) / "pages.zip", numbers, pages)
            total.append((time.process_time() - begin) / TOGETHER)
        letters += sum(len(page.markdown) for page in pages)
        blocks += sum(len(page.text) for page in pages)
        begin = time.process_time()
        documents = generator.documents(range(1000 + numbers.start, 1000 + numbers.stop))
        composed = time.process_time()
        compile_pdf(source(documents))
        compose.append((composed - begin) / TOGETHER)
        compiling.append((time.process_time() - composed) / TOGETHER)
    return {
        "width": generator.width,
        "height": generator.height,
        "text_size": generator.contents.text_size,
        "mode": generator.mode,
        "degradation": generator.degradation,
        "pages": ROUNDS * TOGETHER,
        "characters_per_page": letters / (ROUNDS * TOGETHER),
        "blocks_per_page": blocks / (ROUNDS * TOGETHER),
        "compose_ms": 1e3 * min(compose),
        "typst_ms": 1e3 * min(compiling),
        "total_ms": 1e3 * min(total),
        "total_ms_median": 1e3 * statistics.median(total),
        "pages_per_second": 1 / min(total),
        "threads": 1,
    }
