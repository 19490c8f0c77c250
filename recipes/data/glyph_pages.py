"""Pages of glyphs, as many as are wanted: the miniature on which encoders are compared on two cores."""

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader

from encoders.views import ImageBatch, Views
from mhc import describe
from recipes.data.glyphs import GlyphTask, ScatteredDigits, bitmaps
from recipes.data.growth import FullSize, GrowByAccuracy, Growth, Raise
from recipes.data.page_batch import PageBatch

PADDING, IMAGE, END, FIRST_GLYPH = 0, 1, 2, 3
# of held-out pages, in the place of a run's seed: they are the same in every run
HELD_OUT = 2**31 - 1


class GlyphPages(LightningDataModule):
    """Pages of a `GlyphTask`, drawn when they are asked for: a page is a function of seed, index and level.

    Paper is 1 and ink is -1, as `encoders.Views` makes them, with normal noise on every pixel. Tokens: 0 fills rows, 1
    stands for an image's feature, 2 ends an answer, and glyphs count on from 3. A row is the image and the answer.
    Held-out pages are of the last level and the same whatever the seed.

    Args:
        task: what stands on a page and what is read of it.
        glyph: side of a cell in pixels.
        noise: std of the noise.
        batch_size: pages of an optimizer step, over all processes and accumulated batches.
        pages: of an epoch.
        validation_pages: of the last level.
        growth: how the pages grow; None is `FullSize`.
        page_tokens: that stand for a page; None asks the model.
        seed: of the training pages.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        task: GlyphTask | None = None,
        glyph: int = 12,
        noise: float = 0.1,
        batch_size: int = 64,
        pages: int = 2**22,
        validation_pages: int = 512,
        growth: Growth | None = None,
        page_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        counts = {"batch_size": batch_size, "validation_pages": validation_pages, "page_tokens": page_tokens}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"data.{name} must be at least 1, got {count}")
        if noise < 0:
            raise ValueError(f"data.noise must not be negative, got {noise}")
        if pages < batch_size:
            raise ValueError(f"data.pages is {pages}, but data.batch_size is {batch_size}: raise it")
        self.task, self.growth = task or ScatteredDigits(), growth or FullSize()
        self.glyph, self.noise, self.batch_size, self.pages = glyph, noise, batch_size, pages
        self.validation_pages, self.page_tokens, self.seed = validation_pages, page_tokens, seed
        self.ink = bitmaps(self.task.alphabet, glyph)
        self.views = Views(global_size=glyph * self.task.rows, max_crops=0)

    @property
    def vocabulary_size(self) -> int:
        """Tokens: padding, image, end, and the glyphs."""
        return FIRST_GLYPH + len(self.task.alphabet)

    @property
    def sequence_length(self) -> int:
        """Tokens of the longest row."""
        return self._page_tokens() + 1 + self.task.longest + 1

    def setup(self, stage: str | None = None) -> None:
        """Read what the task needs, and compare tokens and sizes with the model's.

        Raises:
            ValueError: the model has too few tokens or another image or padding token, or the task has nothing to read.
        """
        self.task.prepare()
        if self.trainer is None:
            return
        network = self.trainer.lightning_module.network
        if network.decoder.vocabulary_size < self.vocabulary_size:
            raise ValueError(
                f"model.network.decoder.vocabulary_size is {network.decoder.vocabulary_size}, but the glyphs need "
                f"{self.vocabulary_size} tokens: raise it"
            )
        found = network.padding_token, network.image_token, network.end_token
        if found != (PADDING, IMAGE, END):
            raise ValueError(
                f"model.network has padding, image and end token {found}, but glyph pages have "
                f"{(PADDING, IMAGE, END)}: set them"
            )
        if isinstance(self.growth, GrowByAccuracy) and stage in (None, "fit"):
            self.trainer.callbacks.append(Raise(self.growth))

    def summary(self) -> dict[str, Any]:
        """What the pages are: task, sizes, a SHA-256 of these and the glyphs, and how many tokens stand for a page."""
        state = self.growth.state_dict()
        settings = {name: value for name, value in vars(self.growth).items() if name not in state}
        content = {
            "task": describe(self.task),
            "growth": {type(self.growth).__name__: settings},
            "glyph": self.glyph,
            "noise": self.noise,
            "vocabulary": self.vocabulary_size,
            "page_pixels": self.views.global_size,
            "validation_pages": self.validation_pages,
        }
        ink = hashlib.sha256(json.dumps(content, sort_keys=True).encode() + self.ink.numpy().tobytes())
        read = {"answer_tokens": self.task.longest}
        if not math.isnan(self.task.blind):
            read["blind_order_accuracy"] = self.task.blind
            read["order_tokens"] = self.validation_pages * len(self.task.deciding(self.task.longest))
        if self.trainer is not None or self.page_tokens is not None:
            tokens = self._page_tokens()
            read |= {"visual_tokens": tokens, "answer_tokens_per_visual_token": self.task.longest / tokens}
        return content | {"sha256": ink.hexdigest()} | read

    def probe_batch(self, sequences: int) -> PageBatch:
        """The first held-out pages."""
        return self._batch([self.held_out(k % self.validation_pages) for k in range(sequences)])

    def prior_loss(self) -> float:
        """Nats per token on the held-out pages of a model that knows how often each token occurs and no more."""
        answers = torch.cat([torch.tensor(self.held_out(k)[1]) for k in range(self.validation_pages)])
        counts = torch.bincount(answers, minlength=self.vocabulary_size).double()
        share = counts[counts > 0] / counts.sum()
        return float(-(share * share.log()).sum())

    def train_dataloader(self) -> StatefulDataLoader:
        """Pages 0, 1, 2, ...; its state is the next one.

        Raises:
            ValueError: `batch_size` does not divide over processes and accumulated batches.
        """
        accumulated = self.trainer.accumulate_grad_batches if self.trainer else 1
        replicas, rank = self._replicas()
        parts = replicas * accumulated
        if self.batch_size % parts:
            raise ValueError(
                f"data.batch_size is {self.batch_size}, which {replicas} processes and {accumulated} accumulated "
                f"batches do not divide: make it a multiple of {parts}"
            )
        whole = self.pages // self.batch_size * self.batch_size
        return self._loader(_Pages(self, whole), InOrder(whole, replicas, rank), self.batch_size // parts)

    def val_dataloader(self) -> StatefulDataLoader:
        """The same pages each time, the same number on every process."""
        replicas, rank = self._replicas()
        count = max(self.validation_pages // replicas, 1) * replicas
        pages = _Pages(self, count, held_out=True)
        return self._loader(pages, InOrder(count, replicas, rank), max(self.batch_size // replicas, 1))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must agree with, and how far the pages have grown."""
        return {"sha256": self.summary()["sha256"], "seed": self.seed, "growth": self.growth.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on; refuse to do so with other pages.

        Raises:
            ValueError: the pages or the seed are not the checkpoint's.
        """
        for key, name, now in (("sha256", "data", self.summary()["sha256"]), ("seed", "data.seed", self.seed)):
            if state_dict.get(key) not in (None, now):
                raise ValueError(
                    f"{name} is not what the checkpoint was trained on ({key} {state_dict[key]}, now {now}): "
                    "give the same data, or start anew with --ablation.restart"
                )
        self.growth.load_state_dict(state_dict["growth"])

    def page(self, index: int, level: int | None = None) -> tuple[Tensor, list[int]]:
        """Draw a training page: (pixels [1, G, G], the answer's tokens and the end).

        Args:
            index: of the page in the run.
            level: None asks `growth`.
        """
        generator = torch.Generator().manual_seed(_mixed(self.seed, index))
        draw = float(torch.rand((), generator=generator))
        if level is None:
            level = self.growth.level(index // self.batch_size, draw, self.task.levels)
        return self._drawn(level, generator, held_out=False)

    def held_out(self, index: int) -> tuple[Tensor, list[int]]:
        """Draw a held-out page, as `page`."""
        return self._drawn(self.task.levels, _held_out(index), held_out=True)

    def held_out_cells(self, index: int) -> Tensor:
        """The glyph of each cell of a held-out page, as `GlyphTask.page` gives them: [rows * rows]."""
        # the cells are the first that a page's generator draws
        return self.task.page(self.task.levels, _held_out(index), True)[0]

    def _drawn(self, level: int, generator: torch.Generator, held_out: bool) -> tuple[Tensor, list[int]]:
        cells, answer = self.task.page(level, generator, held_out)
        rows, side = self.task.rows, self.glyph * self.task.rows
        ink = self.ink[cells].view(rows, rows, self.glyph, self.glyph).transpose(1, 2).reshape(1, side, side)
        pixels = torch.randn(1, side, side, generator=generator).mul_(self.noise).add_(1).sub_(ink, alpha=2)
        return pixels, [*(answer + FIRST_GLYPH).tolist(), END]

    def _batch(self, pages: list[tuple[Tensor, list[int]]]) -> PageBatch:
        prompt = [IMAGE] * (self._page_tokens() + 1)  # and the separator
        pixels = torch.stack([pixels for pixels, _ in pages]).expand(-1, 3, -1, -1).contiguous()
        rows = [([*prompt, *answer], len(prompt)) for _, answer in pages]
        batch = PageBatch.collate(rows, ImageBatch(pixels, None, (0,) * len(pages)), PADDING)
        places = [self.task.deciding(len(answer) - 1) for _, answer in pages]
        if not any(len(each) for each in places):
            return batch
        deciding = torch.zeros_like(batch.mask)
        for row, each in zip(deciding, places, strict=True):
            # a token is asked for at the place before it
            row[[len(prompt) - 1 + place for place in each]] = True
        return batch._replace(deciding=deciding)

    def _page_tokens(self) -> int:
        if self.page_tokens is not None:
            return self.page_tokens
        if self.trainer is None:
            raise ValueError("data.page_tokens must be given where there is no model to ask")
        side = self.views.global_size
        return self.trainer.lightning_module.network.vision.tokens_per_view(side, side)

    def _replicas(self) -> tuple[int, int]:
        kwargs = self.trainer.distributed_sampler_kwargs if self.trainer else None
        return (kwargs["num_replicas"], kwargs["rank"]) if kwargs else (1, 0)

    def _loader(self, pages: "_Pages", sampler: "InOrder", batch_size: int) -> StatefulDataLoader:
        # a generator of its own: an iterator draws from one when it is made, and the global one is the model's
        return StatefulDataLoader(
            pages,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=_as_is,
            generator=torch.Generator().manual_seed(self.seed),
        )


class _Pages(Dataset[PageBatch]):
    def __init__(self, data: GlyphPages, count: int, held_out: bool = False) -> None:
        self.data, self.count = data, count
        self._page = data.held_out if held_out else data.page

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, indices: list[int]) -> PageBatch:
        return self.data._batch([self._page(index) for index in indices])


class InOrder(Sampler[int]):
    """The numbers 0 to count - 1 in order, every process its share; the state is how many were given.

    Args:
        count: of all processes together.
        replicas: processes.
        rank: of this one.
    """

    def __init__(self, count: int, replicas: int = 1, rank: int = 0) -> None:
        self.count, self.replicas, self.rank = count, replicas, rank
        self.given, self._resumed = 0, None

    def __len__(self) -> int:
        return len(range(self.rank, self.count, self.replicas))

    def __iter__(self) -> Iterator[int]:
        self.given, self._resumed = self._resumed or 0, None
        for index in range(self.rank + self.given * self.replicas, self.count, self.replicas):
            self.given += 1
            yield index

    def state_dict(self) -> dict[str, int]:
        """How many were given."""
        return {"given": self.given}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on behind those."""
        self._resumed = state_dict["given"]


def _mixed(seed: int, index: int) -> int:
    """A seed for torch of two numbers, so that neighbours have nothing in common."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {index}".encode(), digest_size=8).digest()) >> 1


def _held_out(index: int) -> torch.Generator:
    return torch.Generator().manual_seed(_mixed(HELD_OUT, index))


def _as_is(batch: PageBatch) -> PageBatch:
    return batch
