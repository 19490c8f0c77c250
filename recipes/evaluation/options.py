"""The command line of `python -m recipes.evaluate`."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What to evaluate, and how to make it where it is to be made.

    Attributes:
        predictions: folder of Markdown files; with a checkpoint they are written there.
        truth: OmniDocBench's JSON.
        output: file of the scores.
        jobs: processes.
        cdm: whether formulas are drawn and compared.
        checkpoint: reads the pages; None where the predictions are there.
        images: folder of the pages' images.
        reading: options that `recipes.read` is given besides.
    """

    predictions: Path
    truth: Path
    output: Path
    jobs: int
    cdm: bool = True
    checkpoint: Path | None = None
    images: Path | None = None
    reading: tuple[str, ...] = ()


def parse(arguments: Sequence[str] | None) -> Options:
    """Parse arguments; exits with 2 and a line that says why where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.evaluate",
        description="Score Markdown pages against OmniDocBench's ground truth, as its v1.5 does.",
        epilog="Options of recipes.read (--batch-size, --max-new-tokens, --no-repeat, --prompt, --device, --resume, "
        "--overwrite, ...) may follow where --checkpoint is given. Exit codes: 0 all pages were scored, 1 some are "
        "broken, 2 none could be scored, 130 interrupted.",
    )
    parser.add_argument("--ground-truth", type=Path, required=True, metavar="FILE.json", help="OmniDocBench's pages")
    parser.add_argument("--output", type=Path, required=True, metavar="SCORES.json", help="where the scores go")
    parser.add_argument(
        "--predictions", type=Path, metavar="FOLDER",
        help="page.md for page.jpg; with --checkpoint they are written there (default: predictions/ beside the scores)",
    )  # fmt: skip
    parser.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="read the pages with this model first")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="of the pages, under the names in the truth")
    parser.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, metavar="N", help="default: one a core")
    parser.add_argument(
        "--no-cdm", action="store_true", help="leave out CDM of formulas, which draws them with TeX where one is there"
    )
    given, rest = parser.parse_known_args(arguments)
    if (given.checkpoint is None) != (given.images is None):
        parser.error("--checkpoint and --images go together: the model and the pages it is to read")
    if given.checkpoint is None and given.predictions is None:
        parser.error("give --predictions FOLDER, or --checkpoint FOLDER and --images FOLDER to make them")
    if given.checkpoint is None and rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    predictions = given.predictions or given.output.parent / "predictions"
    return Options(
        predictions, given.ground_truth, given.output, given.jobs, not given.no_cdm,
        given.checkpoint, given.images, tuple(rest),
    )  # fmt: skip


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)
