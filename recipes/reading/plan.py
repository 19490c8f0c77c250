"""Which pages are to be read, and which file each of them becomes."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from encoders.images import ImageError
from recipes.errors import UserError
from recipes.reading.options import Options
from recipes.reading.sources import Source, find


@dataclass(frozen=True)
class Page:
    """A page of a source and its file."""

    source: Source
    number: int
    target: Path

    @property
    def label(self) -> str:
        """For people."""
        return self.source.label(self.number)


@dataclass
class Plan:
    """What is to be done.

    Attributes:
        pages: to read, in order.
        skipped: how many have their file already.
        failures: how many inputs cannot be opened.
    """

    pages: list[Page] = field(default_factory=list)
    skipped: int = 0
    failures: int = 0


def make_plan(options: Options, report: Callable[[ImageError], None]) -> Plan:
    """Look at all inputs, without drawing any; `report` is told of those that cannot be opened.

    Raises:
        UserError: two inputs of one output name, an output that exists, or an output folder that cannot be one.
    """
    _require_folder(options.output)
    plan, owners = Plan(), dict[Path, Page]()
    for source in _sources(options, plan, report):
        for number in range(source.pages):
            page = Page(source, number, options.output / f"{source.name(number)}.md")
            other = owners.setdefault(page.target, page)
            if other is not page:
                raise UserError(
                    f"{other.label} and {page.label} would both be written to {page.target}; rename one, or read them "
                    "into two folders"
                )
    for page in owners.values():
        # a link that leads nowhere is there too
        there = os.path.lexists(page.target)
        if there and not options.resume and not options.overwrite:
            raise UserError(f"{page.target} exists; --resume skips pages that are there, --overwrite replaces them")
        if there and options.resume:
            plan.skipped += 1
        else:
            plan.pages.append(page)
    return plan


def _require_folder(folder: Path) -> None:
    try:
        there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        if not there.is_dir():
            raise UserError(f"--output: {there} is a file; give a folder")
    except OSError as error:
        raise UserError(f"--output: {folder} cannot be written ({error.strerror or error})") from None
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--output: {there} cannot be written; give another folder, or the right to write there")


def _sources(options: Options, plan: Plan, report: Callable[[ImageError], None]) -> list[Source]:
    sources = []
    for name in options.inputs:
        try:
            makers = find(Path(name), options.dpi)
        except ImageError as error:
            plan.failures += 1
            report(error)
            continue
        for make in makers:
            try:
                sources.append(make())
            except ImageError as error:
                plan.failures += 1
                report(error)
    return sources
