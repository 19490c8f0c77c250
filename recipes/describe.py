"""Describe the model of a configuration, without memory for it: parameters, active parameters and FLOPs by part.

    python -m recipes.describe --config ablations/ocr2_full.yaml
    python -m recipes.describe --config ablations/ocr2_full.yaml --variant residual --page 1700x2200
    python -m recipes.describe --config ablations/mhc_vs_hc.yaml --model.width 256

Exit codes: 0 done, 2 bad input.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from recipes.configuration import read
from recipes.errors import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.replace('argument ', '', 1)}; python -m recipes.describe --help shows what there is")


def parser() -> argparse.ArgumentParser:
    """The command's own arguments; others are Lightning's and change the configuration."""
    own = _Parser(
        prog="python -m recipes.describe",
        usage="python -m recipes.describe --config FILE [--variant NAME] [--page WIDTHxHEIGHT] [--model.* ...]",
        description="Print the parts of a configured model: exact parameters, parameters that a token meets, and FLOPs "
        "of a forward (a multiply-add is 2; matrix products and convolutions alone). Nothing is allocated or trained.",
        epilog="Other arguments are Lightning's, as for recipes.fit, and change the configuration: --model.width 256.",
        allow_abbrev=False,
    )
    own.add_argument("--config", required=True, metavar="FILE", help="YAML file, an ablation or an ordinary one")
    own.add_argument("--variant", metavar="NAME", help="of an ablation; by default its baseline")
    own.add_argument(
        "--page",
        metavar="WIDTHxHEIGHT",
        help="size in pixels of the page that is read (default 1700x2200); also lists its views and visual tokens",
    )
    own.add_argument(
        "--text",
        metavar="N",
        help="tokens of text in the forward; default: none beside a page, else data.sequence_length",
    )
    return own


def main(argv: Sequence[str] | None = None) -> int:
    """Print what the command line asks for; returns the exit code."""
    try:
        given, overrides = parser().parse_known_args(sys.argv[1:] if argv is None else list(argv))
        page = None if given.page is None else _page(given.page)
        text = None if given.text is None else _count(given.text)
        source = read(Path(given.config))
        from recipes.description.command import describe

        describe(source, given.variant, page, text, overrides)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _page(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not found or "0" in (found[1].lstrip("0") or "0", found[2].lstrip("0") or "0"):
        raise UserError(f"--page: '{text}' is no size in pixels; give WIDTHxHEIGHT, as in --page 1700x2200")
    return int(found[1]), int(found[2])


def _count(text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"--text: '{text}' is no number of tokens; give one from 0, as in --text 512")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
