"""Windows of text from one corpus, in an order that depends on the seed alone."""

import hashlib
import platform
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

from recipes.data.text_files import matching_files, python_files, read_texts
from recipes.data.vocabulary import ByteVocabulary, Tokens, Vocabulary

Batch = tuple[Tensor, Tensor]


class Windows(Dataset[Batch]):
    """Windows of S + 1 tokens as (inputs [B, S], targets [B, S]), a batch of indices at a time.

    Args:
        tokens: the corpus, [T].
        starts: where the windows start, [N].
        length: S.
    """

    def __init__(self, tokens: Tokens, starts: NDArray[np.int64], length: int) -> None:
        self.tokens, self.starts = tokens, starts
        self._offsets = np.arange(length + 1)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitems__(self, indices: list[int]) -> Batch:
        window = torch.from_numpy(self.tokens[self.starts[indices][:, None] + self._offsets].astype(np.int64))
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()

    def __getitem__(self, index: int) -> Batch:
        inputs, targets = self.__getitems__([index])
        return inputs[0], targets[0]


class EpochSampler(StatefulDistributedSampler):
    """Shuffle anew in every pass, counting the passes itself and keeping the count in its state.

    Lightning's count of epochs goes one too far in a run that is resumed at the end of one.
    """

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the count is the sampler's own."""

    def __iter__(self) -> Iterator[int]:
        if self.yielded and self.next_yielded is None:
            self.epoch += 1
        yield from super().__iter__()

    def state_dict(self) -> dict[str, int]:
        """The pass, and how far it has come."""
        return {**super().state_dict(), "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on in the pass that the state was taken from."""
        super().load_state_dict(state_dict)
        self.epoch = state_dict["epoch"]


class TextCorpus(LightningDataModule):
    """A corpus cut into regions, the end of each kept for validation, and both cut into windows.

    The order of the training windows comes from `seed` and the epoch, and from nothing else: no model, number of
    processes or gradient accumulation changes which sequences an optimizer step sees.

    Args:
        path: a text file, a folder of them, or a pattern; None is Python's own documentation and standard library.
        vocabulary: None is the bytes of UTF-8.
        sequence_length: S, tokens in a window.
        batch_size: sequences of an optimizer step, over all processes and accumulated batches.
        validation_fraction: of every region, at its end.
        split_blocks: contiguous regions; 1 is one cut.
        stride: tokens from one training window's start to the next; None is `sequence_length`.
        validation_batches: most batches in the validation set; its windows are spread evenly and do not change.
        seed: of the order of the training windows.

    Raises:
        ValueError: an argument out of range; on `setup`, a corpus that is missing, empty, or shorter than a sequence.
    """

    def __init__(
        self,
        path: str | None = None,
        vocabulary: Vocabulary | None = None,
        sequence_length: int = 256,
        batch_size: int = 8,
        validation_fraction: float = 0.1,
        split_blocks: int = 20,
        stride: int | None = None,
        validation_batches: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__()
        counts = {
            "sequence_length": sequence_length,
            "batch_size": batch_size,
            "split_blocks": split_blocks,
            "stride": 1 if stride is None else stride,
            "validation_batches": validation_batches,
        }
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"data.{name} must be at least 1, got {count}")
        if not 0 < validation_fraction < 1:
            raise ValueError(f"data.validation_fraction must be above 0 and below 1, got {validation_fraction}")
        self.path, self.vocabulary = path, vocabulary or ByteVocabulary()
        self.sequence_length, self.batch_size, self.seed = sequence_length, batch_size, seed
        self.validation_fraction, self.split_blocks = validation_fraction, split_blocks
        self.stride, self.validation_batches = stride or sequence_length, validation_batches
        self.train_windows: Windows | None = None
        self.validation_windows: Windows | None = None
        self._summary: dict[str, Any] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read, encode and cut the corpus, once.

        Raises:
            ValueError: it is missing, empty, or shorter than a sequence.
        """
        if self.train_windows is not None:
            return
        files = python_files() if self.path is None else matching_files(self.path)
        texts, skipped = read_texts(files)
        name = "Python's own documentation and standard library" if self.path is None else self.path
        if not any(texts):
            raise ValueError(
                f"data.path {name!r} holds no text: {len(files)} files, {len(skipped)} of them not UTF-8 text; "
                "give at least one text file"
            )
        text = "".join(texts)
        self.vocabulary.fit(text)
        tokens = self.vocabulary.encode(text)
        train, validation = self._cut(len(tokens))
        self.train_windows = Windows(tokens, train, self.sequence_length)
        self.validation_windows = Windows(tokens, validation, self.sequence_length)
        self._summary = {
            "path": self.path,
            "python": platform.python_version() if self.path is None else None,
            "files": len(texts),
            "skipped": len(skipped),
            "skipped_files": [file.name for file in skipped[:20]],
            "characters": len(text),
            "tokens": len(tokens),
            "vocabulary": f"{type(self.vocabulary).__name__}({self.vocabulary.size})",
            "train_windows": len(train),
            "validation_windows": len(validation),
            "sha256": hashlib.sha256(text.encode("utf-8")).hexdigest(),
        }

    def summary(self) -> dict[str, Any]:
        """What the corpus is: path, files, files skipped, characters, tokens, windows, SHA-256 of the text."""
        self.setup()
        return dict(self._summary)

    def probe_batch(self, sequences: int) -> Batch:
        """A fixed batch from the validation windows, evenly spread: (inputs [n, S], targets [n, S])."""
        self.setup()
        assert self.validation_windows is not None
        return self.validation_windows.__getitems__(_spread(len(self.validation_windows), sequences).tolist())

    def prior_loss(self) -> float:
        """Nats per token on the validation windows of a model that knows how often each token occurs and no more."""
        self.setup()
        assert self.train_windows is not None
        assert self.validation_windows is not None
        tokens, window = self.train_windows.tokens, self.sequence_length + 1
        edges = np.zeros(len(tokens) + 1, dtype=np.int32)
        np.add.at(edges, self.train_windows.starts, 1)
        np.add.at(edges, self.train_windows.starts + window, -1)
        # one of each token in advance, so that none is impossible
        counts = 1 + np.bincount(tokens[edges.cumsum()[:-1] > 0], minlength=self.vocabulary.size)
        _, targets = self.validation_windows.__getitems__(list(range(len(self.validation_windows))))
        return float(-np.log(counts / counts.sum())[targets.numpy()].mean())

    def train_dataloader(self) -> StatefulDataLoader:
        """Batches in the seed's order; its state is the exact sample.

        Raises:
            ValueError: `batch_size` does not divide over processes and accumulated batches, or there are fewer
                windows than `batch_size`.
        """
        self.setup()
        assert self.train_windows is not None
        accumulated = self.trainer.accumulate_grad_batches if self.trainer else 1
        replicas, rank = self._replicas()
        parts = replicas * accumulated
        if self.batch_size % parts:
            raise ValueError(
                f"data.batch_size is {self.batch_size}, which {replicas} processes and {accumulated} accumulated "
                f"batches do not divide: make it a multiple of {parts}"
            )
        # whole optimizer steps only, so that an epoch ends at the same place however they are divided
        whole = len(self.train_windows) // self.batch_size * self.batch_size
        if not whole:
            raise ValueError(
                f"data.batch_size is {self.batch_size}, but the corpus has only {len(self.train_windows)} training "
                "windows: lower data.batch_size, data.sequence_length or data.stride, or give more text"
            )
        windows = Windows(self.train_windows.tokens, self.train_windows.starts[:whole], self.sequence_length)
        sampler = EpochSampler(windows, num_replicas=replicas, rank=rank, shuffle=True, seed=self.seed)
        return _loader(windows, sampler, self.batch_size // parts, self.seed)

    def val_dataloader(self) -> StatefulDataLoader:
        """The same windows each time, the same number on every process."""
        self.setup()
        assert self.validation_windows is not None
        replicas, rank = self._replicas()
        count = max(len(self.validation_windows) // replicas, 1) * replicas
        sampler = StatefulDistributedSampler(
            torch.utils.data.Subset(self.validation_windows, range(min(count, len(self.validation_windows)))),
            num_replicas=replicas,
            rank=rank,
            shuffle=False,
        )
        return _loader(self.validation_windows, sampler, max(self.batch_size // replicas, 1), self.seed)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        return {"sha256": self._summary.get("sha256"), "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with another text or order.

        Raises:
            ValueError: the corpus or the seed is not the checkpoint's.
        """
        for key, name, now in (("sha256", "data.path", self.summary()["sha256"]), ("seed", "data.seed", self.seed)):
            if state_dict.get(key) not in (None, now):
                raise ValueError(
                    f"{name} is not what the checkpoint was trained on ({key} {state_dict[key]}, now {now}): "
                    "give the same data, or start anew with --ablation.restart"
                )

    def _replicas(self) -> tuple[int, int]:
        kwargs = self.trainer.distributed_sampler_kwargs if self.trainer else None
        return (kwargs["num_replicas"], kwargs["rank"]) if kwargs else (1, 0)

    def _cut(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Starts of training and of validation windows in a corpus of `count` tokens."""
        window = self.sequence_length + 1
        edges = np.linspace(0, count, self.split_blocks + 1).astype(np.int64)
        cuts = edges[1:] - np.round(np.diff(edges) * self.validation_fraction).astype(np.int64)
        regions = zip(edges[:-1].tolist(), cuts.tolist(), edges[1:].tolist(), strict=True)
        train, validation = [], []
        for start, cut, end in regions:
            train.append(np.arange(start, cut - window + 1, self.stride, dtype=np.int64))
            validation.append(np.arange(cut, end - window + 1, self.sequence_length, dtype=np.int64))
        train, validation = np.concatenate(train), np.concatenate(validation)
        for starts, kind, share in (
            (train, "training", 1 - self.validation_fraction),
            (validation, "validation", self.validation_fraction),
        ):
            if not len(starts):
                longest = int(count / self.split_blocks * share)
                raise ValueError(
                    f"data.sequence_length is {self.sequence_length}, but the corpus of {count} tokens in "
                    f"{self.split_blocks} regions leaves {kind} parts of {longest} tokens, and a window takes "
                    f"{window}: lower data.sequence_length or data.split_blocks, raise data.validation_fraction, "
                    "or give more text in data.path"
                )
        return train, validation[_spread(len(validation), self.validation_batches * self.batch_size)]


def _spread(count: int, wanted: int) -> NDArray[np.int64]:
    """At most `wanted` of the numbers 0 to count - 1, evenly spread."""
    return np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64)


def _loader(windows: Windows, sampler: StatefulDistributedSampler, batch_size: int, seed: int) -> StatefulDataLoader:
    # a generator of its own: an iterator draws from one when it is made, and the global one is the model's
    return StatefulDataLoader(
        windows,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=_as_is,
        generator=torch.Generator().manual_seed(seed),
    )


def _as_is(batch: Batch) -> Batch:
    return batch
