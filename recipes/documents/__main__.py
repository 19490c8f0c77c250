"""Write made-up pages to look at, to train on, or to evaluate with; or time how fast they are made.

`python -m recipes.documents --seed 0 --pages 8 --output FOLDER [--mode shuffled_columns]` writes page.png, page.md and
page.json of each, all.pdf, and truth.json for recipes.evaluate; `--bench FILE.csv` times the making.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from recipes.documents.bench import bench
from recipes.documents.cache import Order
from recipes.documents.generate import Page
from recipes.documents.options import MODES, Contents
from recipes.files import replace_file, replacing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 2 where nothing can be done."""
    options = _parser().parse_args(arguments)
    try:
        if options.bench is not None:
            return bench(Path(options.bench), options.text)
        return _write(options)
    except (ValueError, OSError) as error:
        told = " ".join(str(error).split()).replace("data.path", "--text")
        print(f"error: {told}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.documents", description="Make pages of documents with their truth."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", metavar="FOLDER", help="gets page.png, page.md, page.json, all.pdf and truth.json")
    what.add_argument("--bench", metavar="FILE.csv", help="time the making by page size, and write the times there")
    parser.add_argument("--seed", type=int, default=0, help="which pages")
    parser.add_argument("--pages", type=int, default=8, help="how many")
    parser.add_argument("--width", type=int, default=720, help="of a page, in pixels")
    parser.add_argument("--height", type=int, default=1000, help="of a page, in pixels")
    parser.add_argument("--text-size", type=float, default=14.0, help="of running text, in pixels")
    parser.add_argument("--columns", type=int, nargs=2, default=(1, 3), metavar=("LEAST", "MOST"), help="of a page")
    parser.add_argument("--mode", default="prose", choices=list(MODES), help="where words and order come from")
    parser.add_argument("--degradation", type=float, default=0.0, help="blur, noise, skew, JPEG, contrast: 0 to 1")
    parser.add_argument("--text", metavar="PATH", help="to take words from; Python's own documentation if not given")
    return parser


def _write(options: argparse.Namespace) -> int:
    if options.pages < 1:
        raise ValueError(f"--pages must be at least 1, got {options.pages}")
    least, most = options.columns
    contents = Contents(text_size=options.text_size, min_columns=least, max_columns=most)
    sizes = (options.width, options.height)
    generator = Order(options.text, options.seed, *sizes, contents, options.mode, options.degradation).generator()
    folder, numbers = Path(options.output), range(options.pages)
    folder.mkdir(parents=True, exist_ok=True)
    pages = generator.pages(numbers)
    records = [_write_page(folder, number, page) for number, page in zip(numbers, pages, strict=True)]
    replace_file(folder / "truth.json", json.dumps(records, indent=1) + "\n")
    with replacing(folder / "all.pdf") as temporary:
        temporary.write_bytes(generator.pdf(numbers))
    print(f"{folder}: {len(pages)} pages of {options.width} x {options.height} pixels, truth.json, all.pdf")
    return 0


def _write_page(folder: Path, number: int, page: Page) -> dict:
    name = f"page-{number:06d}"
    record = page.record(f"{name}.png", number)
    page.image.save(folder / f"{name}.png")
    replace_file(folder / f"{name}.md", page.markdown + "\n")
    replace_file(folder / f"{name}.json", json.dumps(record | {"grounding": page.grounded}, indent=1) + "\n")
    return record


if __name__ == "__main__":
    sys.exit(main())
