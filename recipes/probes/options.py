"""The command line of `python -m recipes.probe`."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What to probe, with what, where to.

    Attributes:
        checkpoint: folder of model and tokenizer.
        pages: an OmniDocBench JSON, or a folder of images.
        output: folder of report and pictures.
        images: of the JSON's pages; None for beside it.
        crops: probe the crops, too.
        limit: pages, at most; None for all.
        scrambled: encoders with scrambled weights to compare with.
        permutations: behind a p-value.
        text_tokens: of a page's text, at most, for the loss; 0 for no loss.
        device: of torch; None is a GPU where there is one.
        seed: of shuffles and scrambled weights.
    """

    checkpoint: Path
    pages: Path
    output: Path
    images: Path | None = None
    crops: bool = False
    limit: int | None = None
    scrambled: int = 19
    permutations: int = 1000
    text_tokens: int = 512
    device: str | None = None
    seed: int = 0


def parse(arguments: Sequence[str] | None) -> Options:
    """Parse arguments; exits with 2 and a line that says why where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.probe",
        description="In which order do the queries of a checkpoint look at pages? A report and pictures.",
        epilog="Exit codes: 0 all pages were probed, 1 some could not be read, 2 none could or bad arguments.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FOLDER", help="of model and tokenizer.json")
    parser.add_argument(
        "--pages", type=Path, required=True, metavar="PATH", help="an OmniDocBench JSON, or a folder of page images"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="of report and pictures")
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="of the JSON's pages; default: beside it, or images/"
    )
    parser.add_argument("--crops", action="store_true", help="probe the crops, too; default: the whole page alone")
    parser.add_argument("--limit", type=_at_least(1), metavar="N", help="pages, at most")
    parser.add_argument(
        "--scrambled", type=_at_least(0), default=19, metavar="N",
        help="encoders with scrambled weights to compare with, default 19: one in 20 by chance",
    )  # fmt: skip
    parser.add_argument("--permutations", type=_at_least(1), default=1000, metavar="N", help="behind p, default 1000")
    parser.add_argument(
        "--text-tokens", type=_at_least(0), default=512, metavar="N",
        help="of a page's text, at most, that the decoder's loss is of; default 512, 0 for no loss",
    )  # fmt: skip
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU where there is one")
    parser.add_argument("--seed", type=_at_least(0), default=0, help="of shuffles and scrambled weights")
    return Options(**vars(parser.parse_args(arguments)))


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text}")
        return int(text)

    return number
