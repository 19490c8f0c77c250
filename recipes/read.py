"""Read images and PDFs with an OCR 2 checkpoint, one Markdown file a page.

    python -m recipes.read page.png document.pdf folder/ --checkpoint FOLDER --output out/
    python -m recipes.read scans/ --checkpoint FOLDER --output out/ --prompt free --batch-size 8 --resume

photo.png becomes out/photo.md, document.pdf out/document-0001.md and so on. A file that exists is refused before
anything runs, unless --resume skips it or --overwrite replaces it; each is written whole or not at all.

Exit codes: 0 all pages were read, 1 some failed (one line each, the rest was read), 2 nothing could be read or bad
arguments, 130 interrupted (the same command with --resume goes on).
"""

import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from PIL import Image

from encoders.images import ImageError
from recipes.errors import UserError
from recipes.reading.options import Options, parse
from recipes.reading.plan import Page, Plan, make_plan

if TYPE_CHECKING:
    from recipes.reading.console import Console
    from recipes.reading.reader import Reader

Drawn = tuple[Page, Image.Image]


def main(arguments: Sequence[str] | None = None) -> int:
    """Read what the command line names; returns the exit code."""
    try:
        return _main(parse(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command with --resume goes on", file=sys.stderr)
        return 130


def _main(options: Options) -> int:
    plan = make_plan(options, lambda error: print(f"error: {error}", file=sys.stderr))
    if not plan.pages and not plan.skipped:
        raise UserError("nothing can be read")
    # slow to import, and bad input is told at once
    from recipes.reading.console import Console
    from recipes.reading.reader import Reader

    reader = Reader.load(options) if plan.pages else None
    console = Console(len(plan.pages), plan.failures, plan.skipped)
    try:
        if reader is not None:
            with console:
                for batch in _batches(plan, options.batch_size, console):
                    _read(reader, batch, console)
    finally:
        console.summary()
    return 0 if not console.failures else 1 if console.read or plan.skipped else 2


def _batches(plan: Plan, size: int, console: "Console") -> Iterator[list[Drawn]]:
    # pages of one batch follow one rule against repeats
    for _, pages in itertools.groupby(_drawn(plan, console), lambda drawn: drawn[0].source.window):
        while batch := list(itertools.islice(pages, size)):
            yield batch


def _drawn(plan: Plan, console: "Console") -> Iterator[Drawn]:
    for source, pages in itertools.groupby(plan.pages, lambda page: page.source):
        for page in pages:
            try:
                yield page, source.draw(page.number)
            except ImageError as error:
                console.failed(error)
        source.close()


def _read(reader: "Reader", batch: list[Drawn], console: "Console") -> None:
    import torch

    from recipes.files import replacing

    try:
        readings = reader.read([image for _, image in batch], batch[0][0].source.window, console.step)
    except torch.OutOfMemoryError:
        for page, _ in batch:
            console.failed(ImageError(page.label, "is too much for the memory; give a smaller --batch-size"))
        return
    for (page, _), reading in zip(batch, readings, strict=True):
        try:
            with replacing(page.target) as temporary:
                temporary.write_text(f"{reading.text}\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{page.target} cannot be written ({error.strerror or error})") from error
        console.wrote(page, reading)


if __name__ == "__main__":
    sys.exit(main())
