"""Read images and PDFs with an OCR 2 checkpoint, one Markdown file a page.

    python -m recipes.read page.png document.pdf folder/ --checkpoint FOLDER --output out/
    python -m recipes.read scans/ --checkpoint FOLDER --output out/ --prompt free --batch-size 8 --resume

photo.png becomes out/photo.md, document.pdf out/document-0001.md and so on. A file that exists is refused before
anything runs, unless --resume skips it or --overwrite replaces it; each is written whole or not at all.

Exit codes: 0 all pages were read, 1 some were not (one line each, the rest was read), 2 none was or bad arguments, 130
interrupted, 143 terminated (the same command with --resume goes on).
"""

import contextlib
import errno
import itertools
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from PIL import Image

from encoders.images import ImageError
from recipes.errors import UserError
from recipes.reading.lines import tell
from recipes.reading.options import Options, parse
from recipes.reading.plan import Page, Plan, make_plan
from recipes.reports.format import count

if TYPE_CHECKING:
    from recipes.reading.console import Console
    from recipes.reading.reader import Reader, Reading

Drawn = tuple[Page, Image.Image]

# of one page; after others, such as a full disk, the next page could not be written either
OF_ONE_FILE = (errno.ENAMETOOLONG, errno.EISDIR)


class Terminated(BaseException):
    """SIGTERM came."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read what the command line names; returns the exit code."""
    try:
        with _terminable():
            return _main(parse(arguments))
    except UserError as error:
        tell(error)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command with --resume goes on", file=sys.stderr)
        return 130
    except Terminated:
        print("terminated; the same command with --resume goes on", file=sys.stderr)
        return 143


def _main(options: Options) -> int:
    plan = make_plan(options, tell)
    if not plan.pages and not plan.skipped:
        raise UserError("nothing can be read")
    # slow to import, and bad input is told at once
    from recipes.memory import return_freed_memory
    from recipes.reading.console import Console
    from recipes.reading.reader import Reader

    console = Console(len(plan.pages), plan.failures, plan.skipped)
    if plan.pages:
        console.note(f"{count(len(plan.pages), 'page')} to read; loading {options.checkpoint}")
        reader = Reader.load(options)
        try:
            with console:
                for batch in _batches(plan, reader, console):
                    _read(reader, batch, console)
                    return_freed_memory()
        except UserError as error:
            tell(UserError(f"{error}; the same command with --resume goes on"))
            console.stopped = True
        finally:
            console.summary()
    else:
        console.summary()
    whole = not console.failures and not console.stopped
    return 0 if whole else 1 if console.read or plan.skipped else 2


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _batches(plan: Plan, reader: "Reader", console: "Console") -> Iterator[list[Drawn]]:
    # pages of one batch follow one rule against repeats
    for _, pages in itertools.groupby(_drawn(plan, console), lambda drawn: reader.rule(drawn[0].source.window)):
        while batch := list(itertools.islice(pages, reader.batch_size)):
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

    try:
        step = partial(console.step, pages=len(batch))
        readings = reader.read([image for _, image in batch], batch[0][0].source.window, step)
    except (torch.OutOfMemoryError, MemoryError):
        readings = None
    # out of the exception, which holds on to the memory
    if readings is None:
        _read_fewer(reader, batch, console)
        return
    for (page, _), reading in zip(batch, readings, strict=True):
        if reading.finite:
            _write(page, reading, console)
        else:
            console.failed(
                ImageError(page.label, "makes numbers that are not finite: weights are damaged, or overflow")
            )


def _read_fewer(reader: "Reader", batch: list[Drawn], console: "Console") -> None:
    if len(batch) == 1:
        reason = "is too much for the memory, alone too; give a lower --max-new-tokens or another --device"
        console.failed(ImageError(batch[0][0].label, reason))
        return
    reader.batch_size = len(batch) // 2
    console.note(
        f"{len(batch)} pages at once are too much for the memory; going on with --batch-size {reader.batch_size}"
    )
    for start in range(0, len(batch), reader.batch_size):
        _read(reader, batch[start : start + reader.batch_size], console)


def _write(page: Page, reading: "Reading", console: "Console") -> None:
    from recipes.files import replacing

    try:
        with replacing(page.target) as temporary:
            temporary.write_text(f"{reading.text}\n", encoding="utf-8")
    except OSError as error:
        message = f"cannot be written ({error.strerror or error})"
        if error.errno in OF_ONE_FILE:
            console.failed(ImageError(page.label, f"{page.target} {message}"))
            return
        raise UserError(f"{page.target} {message}") from error
    console.wrote(page, reading)


if __name__ == "__main__":
    sys.exit(main())
