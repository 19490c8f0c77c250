"""What every data module of pages does the same way: split, order, loaders, exact resume, broken records."""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lightning.pytorch import LightningDataModule
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

from encoders.processor import IMAGE, MARKDOWN, OCR2Processor
from encoders.views import Views
from recipes.data.page_batch import PageBatch
from recipes.data.page_rows import (
    Draws,
    InTurn,
    Mixture,
    PageLoader,
    PageRows,
    StreamSampler,
    Tally,
    generator,
    too_many,
)
from recipes.data.records.interface import Records, Subset, split

log = logging.getLogger(__name__)


@dataclass
class Source:
    """Records, and how often one of them is drawn.

    Args:
        records: pages and their text.
        weight: share of the samples, beside the weights of the other sources.
        validation: pages to validate on; None holds out a share of `records`.
    """

    records: Records
    weight: float = 1.0
    validation: Records | None = None

    def split(self, fraction: float) -> tuple[Subset, Subset]:
        """Pages for training and for validation, of which a share is held out where there are none for it.

        Raises:
            ValueError: fewer than one of either.
        """
        if self.validation is None:
            return split(self.records, fraction)
        parts = Subset(self.records, range(len(self.records))), Subset(self.validation, range(len(self.validation)))
        if not all(map(len, parts)):
            raise ValueError(f"holds {len(parts[0])} pages, and {len(parts[1])} to validate on: give at least one each")
        return parts

    @property
    def faults(self) -> list[str]:
        """Of all pages."""
        return [*self.records.faults, *(self.validation.faults if self.validation is not None else ())]

    def digest(self) -> str:
        """Of all pages."""
        return self.records.digest() + (self.validation.digest() if self.validation is not None else "")


class PageData(LightningDataModule, ABC):
    """Pages from `sources`; where one has none for validation, a share is held out by the hashes of keys.

    The order of the training pages comes from `seed` and the number of the sample, and from nothing else: no model,
    number of processes or workers, or gradient accumulation changes what an optimizer step sees. How many tokens stand
    for a view is the model's business, which is asked when the loaders are made.

    Args:
        tokenizer: folder with a checkpoint's tokenizer.json.
        sequence_length: most tokens of a sample, those of the image included; a longer answer is cut.
        packed_length: S of rows that several samples share without seeing one another; None gives each its own row.
        batch_size: pages of an optimizer step, over all processes and accumulated batches.
        prompt: text before the answer, with one `<image>`.
        views: how images are cut.
        page_sizes: weights of sizes in pixels that take the place of `views.global_size`; an optimizer step has one.
        validation_fraction: of the pages.
        validation_batches: most batches in the validation set.
        max_broken: share of the records read that may be broken before it is an error.
        workers: processes that read pages beside the training; 0 for none.
        page_tokens: that stand for a page; None asks the model.
        crop_tokens: that stand for a crop; None asks the model.
        seed: of the order of the training pages.

    Raises:
        ValueError: an argument out of range; on `setup`, a source without two pages, too many faults, or a tokenizer
            that cannot be read.
    """

    # key of the configuration that complaints about the pages begin with
    place = "data.path"

    def __init__(
        self,
        tokenizer: str,
        *,
        sequence_length: int = 4096,
        packed_length: int | None = None,
        batch_size: int = 8,
        prompt: str = MARKDOWN,
        views: Views = Views(),  # noqa: B008  frozen
        page_sizes: dict[int, float] | None = None,
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
        if packed_length is not None and packed_length < sequence_length:
            raise ValueError(
                f"data.packed_length is {packed_length}, but a sample may have data.sequence_length of "
                f"{sequence_length} tokens: make it at least as long"
            )
        if workers < 0:
            raise ValueError(f"data.workers must not be negative, got {workers}")
        if not 0 < validation_fraction < 1:
            raise ValueError(f"data.validation_fraction must be above 0 and below 1, got {validation_fraction}")
        if not 0 <= max_broken < 1:
            raise ValueError(f"data.max_broken must be from 0 to below 1, got {max_broken}")
        if prompt.count(IMAGE) != 1:
            raise ValueError(f"data.prompt must hold {IMAGE} once, got {prompt!r}")
        if page_sizes is not None and (not page_sizes or min(page_sizes) < 1 or min(page_sizes.values()) <= 0):
            raise ValueError(
                f"data.page_sizes must hold sizes of at least 1 pixel and positive weights, got {page_sizes}"
            )
        self.tokenizer, self.prompt, self.views, self.page_sizes = tokenizer, prompt, views, page_sizes
        self.sequence_length, self.packed_length, self.batch_size = sequence_length, packed_length, batch_size
        self.validation_fraction, self.validation_batches = validation_fraction, validation_batches
        self.max_broken, self.workers, self.seed = max_broken, workers, seed
        self.page_tokens, self.crop_tokens = page_tokens, crop_tokens
        self.processor: OCR2Processor | None = None
        self.train: list[Subset] = []
        self.validation: list[Subset] = []
        self._summary: dict[str, Any] = {}

    @abstractmethod
    def sources(self) -> Mapping[str, Source]:
        """What pages come from, by name."""

    def setup(self, stage: str | None = None) -> None:
        """Find the pages and read the tokenizer, once.

        Raises:
            ValueError: a source without two pages, too many faults, or no tokenizer.
        """
        if self.processor is not None:
            return
        sources = self.sources()
        faults: list[str] = []
        self.train, self.validation, described = [], [], {}
        for name, source in sources.items():
            try:
                train, held = source.split(self.validation_fraction)
            except ValueError as error:
                raise ValueError(f"{self.key_of(name)} {error}") from None
            faults += source.faults
            self.train.append(train)
            self.validation.append(held)
            described[name] = {
                "records": type(source.records).__name__,
                "train_pages": len(train),
                "validation_pages": len(held),
                "faults": len(source.faults),
                "weight": source.weight,
                "sha256": source.digest(),
            }
        total = sum(map(len, [*self.train, *self.validation])) + len(faults)
        for fault in faults:
            log.warning("%s; skipped", fault)
        if too_many(len(faults), total, self.max_broken):
            raise ValueError(
                f"{self.place}: {len(faults)} of {total} records are broken, the first: {faults[0]}: mend them, or "
                f"raise data.max_broken above {self.max_broken}"
            )
        self.validation = self._kept([source.weight for source in sources.values()])
        self.processor = OCR2Processor.from_pretrained(self.tokenizer, views=self.views)
        what = [(name, entry["sha256"], entry["weight"]) for name, entry in described.items()]
        self._summary = {
            "pages": total - len(faults),
            "faults": len(faults),
            "train_pages": sum(map(len, self.train)),
            "validation_pages": sum(map(len, self.validation)),
            "sources": described,
            "sha256": hashlib.sha256(repr((what, self.page_sizes)).encode()).hexdigest(),
        }

    def summary(self) -> dict[str, Any]:
        """What the data is: pages, faults, the split, and of every source how many, its weight and its SHA-256."""
        self.setup()
        return dict(self._summary)

    def probe_batch(self, sequences: int) -> PageBatch:
        """A fixed batch of held-out pages."""
        self.setup()
        draws = InTurn(self.validation)
        # of one step, for all to be of one size
        count = min(len(draws), self.batch_size)
        reading = self._rows(draws).__getitems__([number % count for number in range(sequences)])
        return Tally(self.place, self.max_broken).take(reading)

    def train_dataloader(self) -> PageLoader:
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
        pages = sum(map(len, self.train))
        whole = pages // self.batch_size * self.batch_size
        if not whole:
            raise ValueError(
                f"data.batch_size is {self.batch_size}, but there are only {pages} training pages: lower it, or give "
                "more pages"
            )
        weights = [source.weight for source in self.sources().values()]
        rows = self._rows(Mixture(self.train, weights, whole, self.seed))
        sampler = StreamSampler(rows, num_replicas=replicas, rank=rank, shuffle=False)
        return self._loader(rows, sampler, self.batch_size // parts)

    def val_dataloader(self) -> PageLoader:
        """The same pages each time, the same number on every process."""
        self.setup()
        replicas, rank = self._replicas()
        rows = self._rows(InTurn(self.validation))
        sampler = StatefulDistributedSampler(rows, num_replicas=replicas, rank=rank, shuffle=False)
        return self._loader(rows, sampler, max(self.batch_size // replicas, 1))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        return {"sha256": self._summary.get("sha256"), "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with other pages or another order.

        Raises:
            ValueError: the pages or the seed are not the checkpoint's.
        """
        for key, name, now in (("sha256", self.place, self.summary()["sha256"]), ("seed", "data.seed", self.seed)):
            if state_dict.get(key) not in (None, now):
                raise ValueError(
                    f"{name} is not what the checkpoint was trained on ({key} {state_dict[key]}, now {now}): "
                    "give the same data, or start anew with --ablation.restart"
                )

    def key_of(self, source: str) -> str:
        """Key of the configuration that complaints about a source begin with."""
        return self.place

    def _kept(self, weights: list[float]) -> list[Subset]:
        """As many held-out pages as are asked for, from each source by its weight."""
        limit = self.validation_batches * self.batch_size
        if sum(map(len, self.validation)) <= limit:
            return self.validation
        shares = [max(1, round(limit * weight / sum(weights))) for weight in weights]
        return [Subset(held.records, held.indices[:share]) for held, share in zip(self.validation, shares, strict=True)]

    def _rows(self, draws: Draws) -> PageRows:
        sizes = self.page_sizes or {self.views.global_size: 1.0}
        return PageRows(
            draws,
            [self._processor(size) for size in sizes],
            list(sizes.values()),
            step=self.batch_size,
            prompt=self.prompt,
            length=self.sequence_length,
            packed_length=self.packed_length,
            place=self.place,
            seed=self.seed,
        )

    def _processor(self, size: int) -> OCR2Processor:
        """Text, and views whose page has this size."""
        page, crop = self.page_tokens if self.page_sizes is None else None, self.crop_tokens
        if self.trainer is not None and (page is None or crop is None):
            count = self.trainer.lightning_module.network.vision.tokens_per_view
            try:
                page = page or count(size, size)
                # a model of pages alone has no queries for crops
                crop = crop or (count(self.views.crop_size, self.views.crop_size) if self.views.max_crops else 1)
            except ValueError as error:
                raise ValueError(f"data.{'views' if self.page_sizes is None else 'page_sizes'}: {error}") from None
        if page is None or crop is None:
            raise ValueError("data.page_tokens and data.crop_tokens must be given where there is no model to ask")
        views = replace(self.views, global_size=size)
        return OCR2Processor.from_pretrained(self.tokenizer, views=views, page_tokens=page, crop_tokens=crop)

    def _replicas(self) -> tuple[int, int]:
        kwargs = self.trainer.distributed_sampler_kwargs if self.trainer else None
        return (kwargs["num_replicas"], kwargs["rank"]) if kwargs else (1, 0)

    def _loader(self, rows: PageRows, sampler: StatefulDistributedSampler, batch_size: int) -> PageLoader:
        return PageLoader(
            rows,
            Tally(self.place, self.max_broken),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.workers,
            generator=generator(self.seed),
        )
