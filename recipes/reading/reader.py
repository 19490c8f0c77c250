"""A checkpoint that reads batches of pages."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from encoders.grounding import strip_grounding
from encoders.ocr2 import OCR2
from encoders.processor import OCR2Processor
from encoders.released import load_ocr2
from mhc.decoding import NoRepeatNGram
from recipes.errors import UserError
from recipes.reading.options import NoRepeat, Options

SIZE = 20
# tables repeat their cells
ALLOWED = ("<td>", "</td>")


@dataclass(frozen=True)
class Reading:
    """The text of a page.

    Attributes:
        text: Markdown.
        tokens: how many were written.
        ended: whether the model ended it, or the limit did.
    """

    text: str
    tokens: int
    ended: bool


class Reader:
    """Model and processor of a checkpoint, on a device.

    Args:
        model: reads.
        processor: of the same checkpoint; its counts are set to those of the model.
        options: prompt, limits and device.

    Raises:
        UserError: model and tokenizer number their tokens differently, or the model has no queries for these views.
    """

    def __init__(self, model: OCR2, processor: OCR2Processor, options: Options) -> None:
        self.model, self.processor, self.options = model.eval(), processor, options
        parameter = next(model.vision.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        for name in ("image_token", "end_token", "padding_token"):
            if getattr(model, name) != getattr(processor, name):
                raise UserError(
                    f"{options.checkpoint}: {name} is {getattr(model, name)} in the model and "
                    f"{getattr(processor, name)} in the tokenizer; they are not of one checkpoint"
                )
        views = processor.views
        try:
            processor.page_tokens = model.vision.tokens_per_view(views.global_size, views.global_size)
            if views.max_crops:
                processor.crop_tokens = model.vision.tokens_per_view(views.crop_size, views.crop_size)
        except ValueError as error:
            raise UserError(f"{options.checkpoint}: {error}") from None
        found = [processor.tokenizer.token_to_id(name) for name in ALLOWED]
        self.allowed = [token for token in found if token is not None]

    @classmethod
    def load(cls, options: Options) -> "Reader":
        """Load the checkpoint: bf16 on a GPU, fp32 on a CPU.

        Raises:
            UserError: a device or checkpoint that cannot be used.
        """
        device = _device(options.device)
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        if not Path(options.checkpoint).is_dir():
            raise UserError(f"--checkpoint: {options.checkpoint} is no folder")
        try:
            processor = OCR2Processor.from_pretrained(options.checkpoint)
            model = load_ocr2(options.checkpoint, dtype=dtype, device=device)
        except (ValueError, OSError) as error:
            raise UserError(f"--checkpoint: {error}") from error
        except torch.OutOfMemoryError:
            raise UserError(f"--checkpoint: the model does not fit into the memory of {device}") from None
        return cls(model, processor, options)

    def read(self, images: Sequence[Image.Image], window: int, progress: Callable[[int], None]) -> list[Reading]:
        """Read pages together, the most likely token at each step.

        Args:
            images: RGB.
            window: of the no-repeat rule where the options have none.
            progress: called with the number of tokens a page so far.

        Raises:
            torch.OutOfMemoryError: the batch is too large.
        """
        batch = self.processor([self.options.prompt] * len(images), [[image] for image in images])
        batch = batch.to(self.device, self.dtype)
        rule = self.options.no_repeat or NoRepeat(SIZE, window)
        tokens = self.model.generate(
            batch.tokens,
            batch.images,
            mask=batch.mask,
            max_new_tokens=self.options.max_new_tokens,
            processors=[NoRepeatNGram(rule.size, rule.window, self.allowed)] if rule.size else [],
            progress=progress,
        )
        return [self._reading(row) for row in tokens[:, batch.tokens.shape[1] :].tolist()]

    def _reading(self, row: list[int]) -> Reading:
        written = list(itertools.takewhile(lambda token: token != self.processor.end_token, row))
        ended = len(written) < len(row)
        text = self.processor.decode(written)
        assert isinstance(text, str)
        return Reading((text if self.options.raw else strip_grounding(text)).strip(), len(written) + ended, ended)


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device: {name} is no device of torch; give cpu or cuda") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device: {name} is not there, torch sees {torch.cuda.device_count()} GPUs")
    return device
