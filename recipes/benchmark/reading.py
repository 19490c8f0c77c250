"""Pages a second of `recipes.read`'s reader by batch size: a tiny model of full-size views on made-up pages."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.table import Table

from encoders.benchmark import rounds
from encoders.benchmark.rounds import CannotMeasure, Spread
from encoders.causal_flow import CausalFlowEncoder
from encoders.ocr2 import OCR2
from encoders.processor import MARKDOWN, OCR2Processor
from encoders.query_bank import QueryBank
from encoders.sam import SAMTokenizer
from encoders.views import Views
from mhc import Attention, CausalLanguageModel, Residual, SwiGLU
from mhc.mixture_of_experts import MixtureOfExperts
from recipes.benchmark.progress import progress_bar
from recipes.benchmark.settings import PLACE, Settings
from recipes.documents.generate import Generator
from recipes.documents.options import Contents
from recipes.documents.text import Corpus
from recipes.documents.tokenizer import BYTE_IMAGE, byte_tokenizer
from recipes.memory import return_freed_memory
from recipes.reading.options import Options
from recipes.reading.reader import Reader

FILE = "reading.csv"
COLUMNS = (
    "batch_size", "pages", "width", "height", "crops", "prompt_tokens", "new_tokens", "parameters", "dtype",
    "ms_per_page", "ms_per_page_p10", "ms_per_page_p90", "pages_per_s", "new_tokens_per_s", "rounds", "over_batch_1",
    "over_batch_1_p10", "over_batch_1_p90", *PLACE,
)  # fmt: skip
BATCHES = (1, 2, 4, 8)
# of a round: as many as the largest batch
PAGES = max(BATCHES)
WIDTH, HEIGHT, TEXT_SIZE = 1024, 1448, 20.0
NEW_TOKENS = 128
# of the rule against repeats that images are read with
WINDOW = 90
# no comparison ends before its rounds
SECONDS = float("inf")


def rows(settings: Settings) -> Iterator[dict[str, Any]]:
    """A row for each batch size; every one of them reads the same pages in every round.

    Raises:
        CannotMeasure: the model ended a text early, so that batches did different work.
    """
    reader, images = small_reader(Views(), NEW_TOKENS), made_up_pages(PAGES)
    yield from compare(reader, images, settings.rounds)


def compare(reader: Reader, images: Sequence[Image.Image], count: int) -> Iterator[dict[str, Any]]:
    """The rows of a reader on some pages in so many rounds.

    Raises:
        CannotMeasure: the model ended a text early, so that batches did different work.
    """
    with progress_bar() as progress:
        task = progress.add_task("reading", total=len(BATCHES) * (count + 1))

        def run(batch: int) -> None:
            read_all(reader, images, batch)
            progress.advance(task)

        runs = {str(batch): partial(run, batch) for batch in BATCHES}
        times = rounds.alternate(runs, rounds.Settings("cpu", rounds=count, seconds=SECONDS))
    processor, pages = reader.processor, len(images)
    width, height = images[0].size
    columns, lines = processor.views.grid(width, height)
    prompt = processor([reader.options.prompt], [[images[0]]]).tokens.shape[1]
    shape = {
        "pages": pages, "width": width, "height": height, "crops": columns * lines, "prompt_tokens": prompt,
        "new_tokens": reader.options.max_new_tokens, "dtype": "fp32",
        "parameters": sum(parameter.numel() for parameter in reader.model.parameters()),
    }  # fmt: skip
    for name, found in times.items():
        page = rounds.spread([milliseconds / pages for milliseconds in found])
        speed = {"pages_per_s": 1e3 / page.median, "new_tokens_per_s": 1e3 * shape["new_tokens"] / page.median}
        over = rounds.ratio(times, str(BATCHES[0]), name)
        row = {"batch_size": int(name), **shape, **page.columns("ms_per_page"), **speed, "rounds": len(found)}
        yield row | over.columns("over_batch_1")


def read_all(reader: Reader, images: Sequence[Image.Image], batch: int) -> None:
    """Read pages, so many at once, as `recipes.read` does between opening an image and writing its text.

    Raises:
        CannotMeasure: the model ended a text early.
    """
    for start in range(0, len(images), batch):
        for reading in reader.read(images[start : start + batch], WINDOW, lambda tokens: None):
            if reading.ended or not reading.finite:
                raise CannotMeasure("the model that reads ended a text early: batches would not do the same work")
        return_freed_memory()


def table(found: Sequence[Mapping[str, Any]]) -> Table:
    """The rows, for the terminal."""
    first = found[0]
    shown = Table(title=f"recipes.read: {first['new_tokens']} tokens a page; median (p10 to p90) of {first['rounds']}")
    for column in ("batch size", "ms a page", "pages/s", "tokens/s", "times batch 1"):
        shown.add_column(column, justify="right", no_wrap=True)
    for row in found:
        page = Spread.read(row, "ms_per_page")
        shown.add_row(
            f"{row['batch_size']}", f"{page.median:.0f} ({page.p10:.0f} to {page.p90:.0f})",
            f"{row['pages_per_s']:.2f}", f"{row['new_tokens_per_s']:.0f}", f"{Spread.read(row, 'over_batch_1')}",
        )  # fmt: skip
    return shown


def goals(found: Sequence[Mapping[str, Any]]) -> str:
    """Which batch size reads the most pages a second; no number was set."""
    best = max(found, key=lambda row: row["pages_per_s"])
    return (
        f"  {'no goal':12}  reading: {best['pages_per_s']:.2f} pages/s at batch size {best['batch_size']}, "
        f"{Spread.read(best, 'over_batch_1')} times those of one page at a time"
    )


def small_reader(views: Views, new_tokens: int) -> Reader:
    """A model of random weights that writes bytes and never ends a text by itself, and its processor.

    Args:
        views: how pages are cut; sizes are multiples of 64 pixels.
        new_tokens: of every page.
    """
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    model = OCR2(
        tokenizer=SAMTokenizer(
            width=32, depth=2, heads=2, hidden=64, window=7, global_blocks=(1,), image_size=views.global_size,
            patch=16, neck=16, compressor=(24, 32),
        ),
        encoder=CausalFlowEncoder(width=32, depth=2, heads=4, key_value_heads=2, hidden=64),
        queries=QueryBank(width=32, counts={views.global_size: None, views.crop_size: None}),
        decoder=CausalLanguageModel(
            tokenizer.get_vocab_size(), 32, 3, topology=Residual, attention=partial(Attention, heads=4),
            feed_forward=partial(MixtureOfExperts, experts=8, chosen=3, hidden=16, shared=2),
            dense_feed_forward=partial(SwiGLU, hidden=64), dense_blocks=1, tied=False,
        ),
        image_token=BYTE_IMAGE,
    )  # fmt: skip
    with torch.no_grad():
        # a mark has logit 0, and the likeliest of 256 bytes has more
        marks = [number for number in range(tokenizer.get_vocab_size()) if len(tokenizer.id_to_token(number)) > 1]
        model.decoder.head.weight[marks] = 0
    options = Options((), Path(), Path(), MARKDOWN, max_new_tokens=new_tokens, device="cpu")
    return Reader(model, OCR2Processor(tokenizer, views=views), options)


def made_up_pages(count: int) -> list[Image.Image]:
    """Pages of A4's shape, as images of RGB."""
    generator = Generator(Corpus.read(), 0, WIDTH, HEIGHT, Contents(text_size=TEXT_SIZE))
    return [page.image.convert("RGB") for page in generator.pages(range(count))]
