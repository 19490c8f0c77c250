"""The flags of the ablation driver, parted from the rest of the command line, which is Lightning's."""

import argparse
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from recipes.errors import UserError


@dataclass(frozen=True)
class Options:
    """What the command line asked of the driver.

    Attributes:
        configs: YAML files; the first one decides between an ablation and an ordinary run.
        only: patterns of variants or cells to take, all where empty.
        seeds: seeds in place of the file's, None for the file's.
        jobs: cells that run side by side, None for the file's.
        output: folder in place of results/<ablation>.
        overrides: the arguments that are Lightning's, in their order.
    """

    configs: list[Path] = field(default_factory=list)
    plan: bool = False
    only: list[str] = field(default_factory=list)
    seeds: list[int] | None = None
    jobs: int | None = None
    restart: bool = False
    output: Path | None = None
    help: bool = False
    overrides: list[str] = field(default_factory=list)

    def after(self, arguments: list[str]) -> "Options":
        """The same options with arguments put before the overrides."""
        return replace(self, overrides=[*arguments, *self.overrides])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message.replace("argument ", "", 1))


def parser() -> argparse.ArgumentParser:
    """The driver's own arguments."""
    own = _Parser(
        prog="python -m recipes.fit",
        add_help=False,
        allow_abbrev=False,
        usage="python -m recipes.fit --config FILE.yaml [--ablation.* ...] [--trainer.max_steps 20 ...]",
        description="Run an ablation (a YAML file with an `ablation:` key) or an ordinary Lightning configuration.",
    )
    group = own.add_argument_group("ablation")
    group.add_argument("-c", "--config", action="append", metavar="FILE", help="YAML file to run")
    group.add_argument(
        "--ablation.plan",
        dest="plan",
        action="store_true",
        help="list cells, budgets and a time estimate, and run nothing",
    )
    group.add_argument(
        "--ablation.only",
        dest="only",
        nargs="+",
        action="extend",
        metavar="PATTERN",
        help="run the variants (or variant/seed-k) that match: mhc, 'hc*', mhc/seed-0",
    )
    group.add_argument(
        "--ablation.seeds", dest="seeds", nargs="+", action="extend", metavar="N", help="seeds in place of the file's"
    )
    group.add_argument(
        "--ablation.jobs", dest="jobs", metavar="N", help="cells side by side; their timings are marked as shared"
    )
    group.add_argument(
        "--ablation.restart",
        dest="restart",
        action="store_true",
        help="throw the chosen cells away and run them from step 0",
    )
    group.add_argument("--ablation.output", dest="output", metavar="DIR", help="folder in place of results/<ablation>")
    group.add_argument(
        "-h",
        "--help",
        dest="help",
        action="store_true",
        help="show this and the options of Lightning, all of which may be given",
    )
    return own


def parse(argv: list[str]) -> Options:
    """Part a command line into the driver's options and Lightning's; raises UserError for a bad value."""
    given, overrides = parser().parse_known_args(argv)
    unknown = next((arg for arg in overrides if re.match(r"--ablation\b", arg)), None)
    if unknown:
        raise UserError(f"{unknown}: no such option; there is --ablation.plan, .only, .seeds, .jobs, .restart, .output")
    output = Path(given.output) if given.output else None
    return Options(
        configs=[Path(path) for path in given.config or []],
        plan=given.plan,
        only=_words(given.only or []),
        seeds=None if given.seeds is None else _seeds(given.seeds),
        jobs=_jobs(given.jobs),
        restart=given.restart,
        output=output,
        help=given.help,
        overrides=overrides,
    )


def _words(values: list[str]) -> list[str]:
    return [word for value in values for word in re.split(r"[,\s]+", value.strip().strip("[]")) if word]


def _seeds(values: list[str]) -> list[int]:
    words = _words(values)
    wrong = next((word for word in words if not word.isdecimal()), None)
    if wrong is not None or not words:
        raise UserError(
            f"--ablation.seeds: '{wrong or ' '.join(values)}' is not a whole number; "
            "give seeds as in --ablation.seeds 0 1 2"
        )
    return list(dict.fromkeys(int(word) for word in words))


def _jobs(value: str | None) -> int | None:
    if value is None:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise UserError(f"--ablation.jobs: '{value}' is not a number of cells; give 1 or more")
    return int(value)
