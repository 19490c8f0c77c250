"""A checkpoint that reads batches of pages."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

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
        finite: whether all numbers that chose them were.
    """

    text: str
    tokens: int
    ended: bool
    finite: bool = True


class Reader:
    """Model and processor of a checkpoint, on a device.

    Args:
        model: reads.
        processor: of the same checkpoint; its counts are set to those of the model.
        options: prompt, limits and device.

    Attributes:
        batch_size: pages at once; less than the options' where the memory is too small.

    Raises:
        UserError: model and tokenizer number their tokens differently, or the model has no queries for these views.
    """

    def __init__(self, model: OCR2, processor: OCR2Processor, options: Options) -> None:
        self.model, self.processor, self.options = model.eval(), processor, options
        self.batch_size = options.batch_size
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
            torch.OutOfMemoryError: the batch is too large, on a CPU too.
        """
        try:
            return self._read(images, self.rule(window), progress)
        except RuntimeError as error:
            # what the CPU's allocator raises has no type of its own
            if "DefaultCPUAllocator" in str(error):
                raise torch.OutOfMemoryError(str(error)) from None
            raise

    def rule(self, window: int) -> NoRepeat:
        """What must not repeat: the options' rule, or the usual one with this window."""
        return self.options.no_repeat or NoRepeat(SIZE, window)

    def _read(self, images: Sequence[Image.Image], rule: NoRepeat, progress: Callable[[int], None]) -> list[Reading]:
        batch = self.processor([self.options.prompt] * len(images), [[image] for image in images])
        batch = batch.to(self.device, self.dtype)
        finite = _Finite(len(images), self.device)
        repeats = [NoRepeatNGram(rule.size, rule.window, self.allowed)] if rule.size else []
        tokens = self.model.generate(
            batch.tokens,
            batch.images,
            mask=batch.mask,
            max_new_tokens=self.options.max_new_tokens,
            processors=[finite, *repeats],
            progress=progress,
        )
        rows = tokens[:, batch.tokens.shape[1] :].tolist()
        return [
            replace(self._reading(row), finite=whole) for row, whole in zip(rows, finite.rows.tolist(), strict=True)
        ]

    def _reading(self, row: list[int]) -> Reading:
        written = list(itertools.takewhile(lambda token: token != self.processor.end_token, row))
        ended = len(written) < len(row)
        text = self.processor.decode(written)
        assert isinstance(text, str)
        return Reading((text if self.options.raw else strip_grounding(text)).strip(), len(written) + ended, ended)


class _Finite:
    """Notes which rows have had a logit that is no number; one that has ended no longer matters."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.rows = torch.ones(rows, dtype=torch.bool, device=device)

    def __call__(self, tokens: Tensor, logits: Tensor, mask: Tensor | None) -> Tensor:
        self.rows &= logits.isfinite().all(-1)
        return logits


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device: {name} is no device of torch; give cpu or cuda") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device: {name} is not there, torch sees {torch.cuda.device_count()} GPUs")
    try:
        # a torch may be built without it, and the meta device holds no numbers
        torch.zeros(1, device=device).tolist()
    except (RuntimeError, AssertionError, ImportError):
        raise UserError(f"--device: {name} cannot be used by this torch; give cpu or cuda") from None
    return device
