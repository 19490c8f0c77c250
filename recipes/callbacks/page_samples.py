"""Pages, what the model reads in them, and what is there, in TensorBoard."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor

from encoders.ocr2 import OCR2
from encoders.views import ImageBatch
from mhc.decoding import NoRepeatNGram
from recipes.callbacks import figures
from recipes.callbacks.measure import undisturbed
from recipes.data.page_batch import PageBatch


class Sample(NamedTuple):
    """A page to read: its prompt, its views and its truth, as token numbers."""

    prompt: Tensor
    images: ImageBatch | None
    truth: Tensor


class PageSamples(Callback):
    """Read some held-out pages every k steps and at the end, the likeliest token at each step.

    The picture page_samples/0 shows the page, what was read and what is there; the text of that name has both to copy.
    A row of several documents gives its first.

    Args:
        every_n_steps: k.
        pages: how many.
        max_new_tokens: of what is read, at most.
        no_repeat: tokens of an n-gram that is not to be repeated within `window`; 0 for no such rule.
        window: tokens.

    Raises:
        ValueError: a number below 1; on training's start, data without a processor.
    """

    def __init__(
        self, every_n_steps: int = 500, pages: int = 2, max_new_tokens: int = 64, no_repeat: int = 20, window: int = 90
    ) -> None:
        counts = {"every_n_steps": every_n_steps, "pages": pages, "max_new_tokens": max_new_tokens, "window": window}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"page_samples.{name} must be at least 1, got {count}")
        self.every_n_steps, self.pages, self.max_new_tokens = every_n_steps, pages, max_new_tokens
        self.processors = [NoRepeatNGram(no_repeat, window)] if no_repeat else []
        #: what was read last, and the truth, page by page
        self.readings: list[tuple[str, str]] = []
        self._samples: list[Sample] = []
        self._step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the pages from the validation split."""
        if getattr(trainer.datamodule, "processor", None) is None:
            raise ValueError(f"data.{type(trainer.datamodule).__name__} has no processor, which PageSamples needs")
        batch = move_data_to_device(trainer.datamodule.probe_batch(self.pages), pl_module.device)
        self._samples = list(samples(pl_module.network, batch))[: self.pages]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read every k steps."""
        if trainer.global_step != self._step and trainer.global_step % self.every_n_steps == 0:
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read once more, if the last step was not."""
        if trainer.global_step != self._step:
            self._show(trainer, pl_module)

    def _show(self, trainer: Trainer, module: LightningModule) -> None:
        self._step = trainer.global_step
        decode = trainer.datamodule.processor.decode
        self.readings = []
        for number, sample in enumerate(self._samples):
            with undisturbed(module), trainer.precision_plugin.forward_context():
                read = self._read(module.network, sample)
            self.readings.append((decode(read.tolist()), decode(sample.truth.tolist())))
            self._log(trainer, number, sample.images, *self.readings[-1])

    def _read(self, network: OCR2, sample: Sample) -> Tensor:
        images = sample.images
        if images is not None:
            images = images.to(sample.prompt.device, network.vision.projector.weight.dtype)
        limit = self.max_new_tokens
        tokens = network.generate(sample.prompt[None], images, max_new_tokens=limit, processors=self.processors)
        written = tokens[0, len(sample.prompt) :]
        ends = (written == network.end_token).nonzero()
        return written[: int(ends[0])] if len(ends) else written

    def _log(self, trainer: Trainer, number: int, images: ImageBatch | None, read: str, truth: str) -> None:
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not loggers or not trainer.is_global_zero:
            return
        name, step = f"page_samples/{number}", self._step
        text = f"read:\n\n```\n{read}\n```\n\ntruth:\n\n```\n{truth}\n```"
        page = None if images is None else images.pages[0].float().cpu()
        picture = figures.page_reading(page, read, truth, step)
        for logger in loggers:
            logger.experiment.add_image(name, picture, step, dataformats="HWC")
            logger.experiment.add_text(name, text, step)


def samples(network: OCR2, batch: PageBatch) -> Iterator[Sample]:
    """The first sample of each row: its prompt up to the first token that is asked for, its images and its answer."""
    images = batch.images
    lengths = [] if images is None else network.vision.lengths(images)
    views = iter([] if images is None else _apart(images))
    pairs = iter(zip(lengths, views, strict=True))
    for row, (tokens, labels) in enumerate(zip(batch.tokens, batch.labels, strict=True)):
        own = torch.ones_like(tokens, dtype=torch.bool) if batch.documents is None else batch.documents[row] == 0
        slots = tokens == network.image_token
        of_row = _take(pairs, int(slots.sum()))
        asked = (labels >= 0) & own
        if not bool(asked.any()):
            continue
        first = int(asked.nonzero()[0])
        used = list(_take(iter(of_row), int(slots[: first + 1].sum())))
        answer = labels[asked]
        truth = answer[answer != network.end_token]
        yield Sample(tokens[: first + 1], _together([view for _, view in used]), truth)


def _take(pairs: Iterator[tuple[int, ImageBatch]], slots: int) -> list[tuple[int, ImageBatch]]:
    taken = []
    while slots > 0:
        length, view = next(pairs)
        slots -= length
        taken.append((length, view))
    return taken


def _apart(images: ImageBatch) -> Iterator[ImageBatch]:
    ends = list(itertools.accumulate(images.crop_counts))
    for number, (end, count) in enumerate(zip(ends, images.crop_counts, strict=True)):
        crops = images.crops[end - count : end] if images.crops is not None and count else None
        yield ImageBatch(images.pages[number : number + 1], crops, (count,))


def _together(images: list[ImageBatch]) -> ImageBatch | None:
    if not images:
        return None
    crops = [image.crops for image in images if image.crops is not None]
    counts = tuple(count for image in images for count in image.crop_counts)
    return ImageBatch(torch.cat([image.pages for image in images]), torch.cat(crops) if crops else None, counts)
