"""Pages from a folder, in an order that depends on the seed alone."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

from encoders.processor import IMAGE, MARKDOWN, OCR2Processor
from encoders.views import Views
from recipes.data.page_batch import PageBatch
from recipes.data.page_pairs import Pages, find_pages, hold_out
from recipes.data.text_corpus import EpochSampler

log = logging.getLogger(__name__)


class PageFolder(LightningDataModule):
    """Pages as image and Markdown, page.png and page.md; a share is held out for validation, by the hash of its name.

    The order of the training pages comes from `seed` and the epoch, and from nothing else. How many tokens stand for a
    view is the model's business, which is asked when the loaders are made.

    Args:
        path: the folder.
        tokenizer: folder with a checkpoint's tokenizer.json.
        sequence_length: S, most tokens of a row, those of the image included; a longer answer is cut.
        batch_size: pages of an optimizer step, over all processes and accumulated batches.
        prompt: text before the answer, with one `<image>`.
        views: how images are cut.
        validation_fraction: of the pages.
        validation_batches: most batches in the validation set.
        max_broken: share of the records read that may be broken before it is an error.
        workers: processes that read pages beside the training; 0 for none.
        page_tokens: that stand for a page; None asks the model.
        crop_tokens: that stand for a crop; None asks the model.
        seed: of the order of the training pages.

    Raises:
        ValueError: an argument out of range; on `setup`, a folder without pages, or a tokenizer that cannot be read.
    """

    def __init__(
        self,
        path: str,
        tokenizer: str,
        sequence_length: int = 4096,
        batch_size: int = 8,
        prompt: str = MARKDOWN,
        views: Views = Views(),  # noqa: B008  frozen
        validation_fraction: float = 0.05,
        validation_batches: int = 16,
        max_broken: float = 0.01,
        workers: int = 0,
        page_tokens: int | None = None,
        crop_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        counts = {
            "sequence_length": sequence_length,
            "batch_size": batch_size,
            "validation_batches": validation_batches,
            "page_tokens": page_tokens,
            "crop_tokens": crop_tokens,
        }
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"data.{name} must be at least 1, got {count}")
        if workers < 0:
            raise ValueError(f"data.workers must not be negative, got {workers}")
        if not 0 < validation_fraction < 1:
            raise ValueError(f"data.validation_fraction must be above 0 and below 1, got {validation_fraction}")
        if not 0 <= max_broken < 1:
            raise ValueError(f"data.max_broken must be from 0 to below 1, got {max_broken}")
        if prompt.count(IMAGE) != 1:
            raise ValueError(f"data.prompt must hold {IMAGE} once, got {prompt!r}")
        self.path, self.tokenizer, self.prompt, self.views = path, tokenizer, prompt, views
        self.sequence_length, self.batch_size, self.seed, self.workers = sequence_length, batch_size, seed, workers
        self.validation_fraction, self.validation_batches = validation_fraction, validation_batches
        self.max_broken, self.page_tokens, self.crop_tokens = max_broken, page_tokens, crop_tokens
        self.processor: OCR2Processor | None = None
        self.train_files: list[Path] = []
        self.validation_files: list[Path] = []
        self._summary: dict[str, Any] = {}

    def setup(self, stage: str | None = None) -> None:
        """Find the pages and read the tokenizer, once.

        Raises:
            ValueError: a folder without two pages, too many images without Markdown, or no tokenizer.
        """
        if self.processor is not None:
            return
        folder = Path(self.path)
        files, alone = find_pages(folder)
        for image in alone:
            log.warning("%s: has no Markdown beside it; skipped", image)
        if len(alone) > self.max_broken * (len(files) + len(alone)):
            raise ValueError(
                f"data.path '{folder}': {len(alone)} of {len(files) + len(alone)} images have no Markdown beside them, "
                f"the first is {alone[0].name}: add it, or raise data.max_broken above {self.max_broken}"
            )
        if len(files) < 2:
            raise ValueError(f"data.path '{folder}' holds {len(files)} page: training and validation need one each")
        self.processor = OCR2Processor.from_pretrained(self.tokenizer, views=self.views)
        names = [path.relative_to(folder).as_posix() for path in files]
        held = hold_out(names, self.validation_fraction)
        self.train_files = [path for path, name in zip(files, names, strict=True) if name not in held]
        kept = [path for path, name in zip(files, names, strict=True) if name in held]
        self.validation_files = kept[: self.validation_batches * self.batch_size]
        sizes = "\n".join(f"{name} {path.stat().st_size}" for path, name in zip(files, names, strict=True))
        self._summary = {
            "path": self.path,
            "pages": len(files),
            "without_text": len(alone),
            "train_pages": len(self.train_files),
            "validation_pages": len(self.validation_files),
            "sha256": hashlib.sha256(sizes.encode()).hexdigest(),
        }

    def summary(self) -> dict[str, Any]:
        """What the folder is: path, pages, images without text, the split, SHA-256 of all names and sizes."""
        self.setup()
        return dict(self._summary)

    def probe_batch(self, sequences: int) -> PageBatch:
        """A fixed batch of held-out pages."""
        pages = self._pages(self.validation)
        return pages.__getitems__([k % len(pages) for k in range(sequences)])

    @property
    def validation(self) -> list[Path]:
        """The held-out pages."""
        self.setup()
        return self.validation_files

    def train_dataloader(self) -> StatefulDataLoader:
        """Batches in the seed's order; its state is the exact page.

        Raises:
            ValueError: `batch_size` does not divide over processes and accumulated batches, or there are fewer pages.
        """
        self.setup()
        accumulated = self.trainer.accumulate_grad_batches if self.trainer else 1
        replicas, rank = self._replicas()
        parts = replicas * accumulated
        if self.batch_size % parts:
            raise ValueError(
                f"data.batch_size is {self.batch_size}, which {replicas} processes and {accumulated} accumulated "
                f"batches do not divide: make it a multiple of {parts}"
            )
        # whole optimizer steps only, so that an epoch ends at the same place however they are divided
        whole = len(self.train_files) // self.batch_size * self.batch_size
        if not whole:
            raise ValueError(
                f"data.batch_size is {self.batch_size}, but there are only {len(self.train_files)} training pages: "
                "lower it, or give more pages"
            )
        pages = self._pages(self.train_files[:whole])
        sampler = EpochSampler(pages, num_replicas=replicas, rank=rank, shuffle=True, seed=self.seed)
        return self._loader(pages, sampler, self.batch_size // parts)

    def val_dataloader(self) -> StatefulDataLoader:
        """The same pages each time, the same number on every process."""
        replicas, rank = self._replicas()
        pages = self._pages(self.validation)
        sampler = StatefulDistributedSampler(pages, num_replicas=replicas, rank=rank, shuffle=False)
        return self._loader(pages, sampler, max(self.batch_size // replicas, 1))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        return {"sha256": self._summary.get("sha256"), "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with other pages or another order.

        Raises:
            ValueError: the pages or the seed are not the checkpoint's.
        """
        for key, name, now in (("sha256", "data.path", self.summary()["sha256"]), ("seed", "data.seed", self.seed)):
            if state_dict.get(key) not in (None, now):
                raise ValueError(
                    f"{name} is not what the checkpoint was trained on ({key} {state_dict[key]}, now {now}): "
                    "give the same data, or start anew with --ablation.restart"
                )

    def _pages(self, files: list[Path]) -> Pages:
        self.setup()
        assert self.processor is not None
        page, crop = self.page_tokens, self.crop_tokens
        if self.trainer is not None and (page is None or crop is None):
            count = self.trainer.lightning_module.network.vision.tokens_per_view
            page = page or count(self.views.global_size, self.views.global_size)
            # a model of pages alone has no queries for crops
            crop = crop or (count(self.views.crop_size, self.views.crop_size) if self.views.max_crops else 1)
        if page is None or crop is None:
            raise ValueError("data.page_tokens and data.crop_tokens must be given where there is no model to ask")
        processor = OCR2Processor.from_pretrained(self.tokenizer, views=self.views, page_tokens=page, crop_tokens=crop)
        return Pages(files, processor, self.prompt, self.sequence_length, self.max_broken)

    def _replicas(self) -> tuple[int, int]:
        kwargs = self.trainer.distributed_sampler_kwargs if self.trainer else None
        return (kwargs["num_replicas"], kwargs["rank"]) if kwargs else (1, 0)

    def _loader(self, pages: Pages, sampler: StatefulDistributedSampler, batch_size: int) -> StatefulDataLoader:
        # a generator of its own: an iterator draws from one when it is made, and the global one is the model's
        return StatefulDataLoader(
            pages,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=_as_is,
            num_workers=self.workers,
            generator=torch.Generator().manual_seed(self.seed),
        )


def _as_is(batch: PageBatch) -> PageBatch:
    return batch
