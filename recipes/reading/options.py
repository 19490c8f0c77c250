"""The command line of `python -m recipes.read`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from encoders.processor import FREE_OCR, IMAGE, MARKDOWN

PROMPTS = {"markdown": MARKDOWN, "free": FREE_OCR}


@dataclass(frozen=True)
class NoRepeat:
    """Size and window of the n-grams that must not repeat; size 0 forbids nothing."""

    size: int
    window: int


@dataclass(frozen=True)
class Options:
    """What to read, with what, where to.

    Attributes:
        inputs: images, PDFs and folders of these.
        checkpoint: folder of model and tokenizer.
        output: folder of the Markdown files.
        prompt: with one `<image>`.
        batch_size: pages.
        max_new_tokens: a page.
        device: of torch; None is a GPU where there is one.
        dpi: of PDF pages.
        no_repeat: for all pages; None for what suits images and PDFs.
        resume: skip pages whose file exists.
        overwrite: replace it.
        raw: keep the marks of labels and boxes.
    """

    inputs: tuple[str, ...]
    checkpoint: Path
    output: Path
    prompt: str = MARKDOWN
    batch_size: int = 4
    max_new_tokens: int = 8192
    device: str | None = None
    dpi: int = 144
    no_repeat: NoRepeat | None = None
    resume: bool = False
    overwrite: bool = False
    raw: bool = False


def parse(arguments: Sequence[str] | None) -> Options:
    """Parse arguments; exits with 2 and a line that says why where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.read",
        description="Read images and PDFs with an OCR 2 checkpoint: one Markdown file a page.",
        epilog="Exit codes: 0 all pages were read, 1 some were not, 2 none was, 130 interrupted, 143 terminated.",
    )
    parser.add_argument(
        "inputs", nargs="+", type=_input, metavar="FILE", help="an image, a PDF, or a folder (its own files alone)"
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FOLDER", help="of model and tokenizer.json")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="page.md, document-0001.md, ...")
    parser.add_argument(
        "--prompt", type=_prompt, default=MARKDOWN, help="markdown (default), free, or a text; <image> is put before it"
    )
    parser.add_argument("--batch-size", type=_positive, default=4, metavar="N", help="pages at once, default 4")
    parser.add_argument("--max-new-tokens", type=_positive, default=8192, metavar="N", help="a page, default 8192")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: a GPU where there is one")
    parser.add_argument("--dpi", type=_positive, default=144, help="of PDF pages, default 144")
    parser.add_argument(
        "--no-repeat", type=_no_repeat, metavar="N,WINDOW",
        help="no n-gram twice in a window; default 20,90 for images and 20,50 for PDFs; off allows all",
    )  # fmt: skip
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="skip pages whose file exists")
    existing.add_argument("--overwrite", action="store_true", help="replace files that exist; without either: refused")
    parser.add_argument("--raw", action="store_true", help="keep the marks of labels and boxes in the text")
    chosen = vars(parser.parse_args(arguments))
    return Options(**(chosen | {"inputs": tuple(chosen["inputs"])}))


def _input(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("a name is empty")
    return text


def _prompt(text: str) -> str:
    # bytes of another encoding arrive as surrogates
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise argparse.ArgumentTypeError(f"must be UTF-8, got {text!a}")
    prompt = PROMPTS.get(text, text)
    if prompt.count(IMAGE) > 1:
        raise argparse.ArgumentTypeError(f"a page is one {IMAGE}, the prompt has {prompt.count(IMAGE)}")
    return prompt if IMAGE in prompt else f"{IMAGE}\n{prompt}"


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= len(text) <= 9 or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 999999999, got {text}")
    return int(text)


def _no_repeat(text: str) -> NoRepeat:
    if text == "off":
        return NoRepeat(0, 0)
    size, comma, window = text.partition(",")
    if not comma or not size.isdecimal() or not window.isdecimal() or not 1 <= int(size) <= int(window):
        raise argparse.ArgumentTypeError(f"must be N,WINDOW with 1 <= N <= WINDOW, or off, got {text}")
    return NoRepeat(int(size), int(window))
