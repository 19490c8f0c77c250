"""Records -> rows of tokens around image slots, the same way for every source of pages."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

from encoders.images import ImageError
from encoders.processor import IMAGE, OCR2Processor
from encoders.views import ImageBatch
from recipes.data.order import Shares, mixed, shuffled
from recipes.data.packing import first_fit
from recipes.data.page_batch import PageBatch, Sample
from recipes.data.records.interface import Record, RecordError, Records
from recipes.data.text_corpus import EpochSampler

# below so many records a share says nothing
FEWEST = 20
# broken records after which a batch is given up
MOST = 1000

log = logging.getLogger(__name__)


class Draws(ABC):
    """Which record each number stands for."""

    @abstractmethod
    def __len__(self) -> int:
        """How many numbers are one pass."""

    @abstractmethod
    def draw(self, number: int) -> tuple[Records, int]:
        """A record by its place in its source."""


class Mixture(Draws):
    """Numbers without end, dealt to sources by weights; each source is gone through in an order of its own each time.

    Everything comes from the number and the seed (`recipes.data.order`), and nothing from what was drawn before.

    Args:
        sources: of records.
        weights: of the sources.
        count: numbers of a pass.
        seed: of all orders.
    """

    def __init__(self, sources: Sequence[Records], weights: Sequence[float], count: int, seed: int) -> None:
        self.sources, self.shares, self.count, self.seed = list(sources), Shares(weights, seed), count, seed

    def __len__(self) -> int:
        return self.count

    def draw(self, number: int) -> tuple[Records, int]:
        """The source whose turn it is, and its next record."""
        kind, turn = self.shares.deal(number)
        records = self.sources[kind]
        gone, place = divmod(turn, len(records))
        return records, shuffled(place, len(records), self.seed, kind, gone)


class InTurn(Draws):
    """Records of several sources, one source after the other.

    Args:
        sources: of records.
    """

    def __init__(self, sources: Sequence[Records]) -> None:
        self.places = [(records, index) for records in sources for index in range(len(records))]

    def __len__(self) -> int:
        return len(self.places)

    def draw(self, number: int) -> tuple[Records, int]:
        """The record at a place."""
        return self.places[number]


class Reading(NamedTuple):
    """What a batch came from; data that comes from another process.

    Attributes:
        batch: None where there is none to give.
        tried: how many records were read for it.
        broken: which of them could not be, a sentence each.
        refused: why there is none, a sentence.
    """

    batch: PageBatch | None
    tried: int
    broken: tuple[str, ...] = ()
    refused: str | None = None


class PageRows(Dataset[Reading]):
    """Numbers -> a batch of rows. A record that cannot be read is replaced by the next of its source that can.

    Args:
        draws: number -> record.
        processors: text and views, one for each size that pages are shown in.
        page_sizes: weights of the processors; a step has one size.
        step: numbers of an optimizer step.
        prompt: text before the answer, with one `<image>`.
        length: most tokens of a sample; a longer answer is cut.
        packed_length: S of rows that samples share; None gives each its own.
        place: key of the configuration that the records come from.
        seed: of the order of the sizes.
    """

    def __init__(
        self,
        draws: Draws,
        processors: Sequence[OCR2Processor],
        page_sizes: Sequence[float],
        *,
        step: int,
        prompt: str,
        length: int,
        packed_length: int | None,
        place: str,
        seed: int,
    ) -> None:
        self.draws, self.processors, self.step = draws, list(processors), step
        self.length, self.packed_length, self.place = length, packed_length, place
        self.sizes = Shares(page_sizes, mixed(seed, len(processors)))
        self.prompt = processors[0].encode(prompt)

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, number: int) -> Reading:
        return self.__getitems__([number])

    def __getitems__(self, numbers: list[int]) -> Reading:
        processor = self.processors[self.sizes.deal(numbers[0] // self.step)[0]]
        samples: list[Sample] = []
        views: list[tuple[Tensor, Tensor]] = []
        broken: list[str] = []
        for number in numbers:
            try:
                sample, cut = self._readable(number, processor, broken)
            except _RefusedError as error:
                return Reading(None, len(samples) + len(broken), tuple(broken), str(error))
            samples.append(sample)
            views.append(cut)
        tried = len(samples) + len(broken)
        if self.packed_length is None:
            batch = PageBatch.collate(samples, ImageBatch.collate(views), processor.padding_token)
            return Reading(batch, tried, tuple(broken))
        rows = first_fit([len(tokens) for tokens, _ in samples], self.packed_length)
        images = ImageBatch.collate([views[place] for row in rows for place in row])
        packed = [[samples[place] for place in row] for row in rows]
        batch = PageBatch.collate_packed(packed, images, processor.padding_token)
        return Reading(batch, tried, tuple(broken))

    def _readable(
        self, number: int, processor: OCR2Processor, broken: list[str]
    ) -> tuple[Sample, tuple[Tensor, Tensor]]:
        records, index = self.draws.draw(number)
        for step in range(len(records)):
            try:
                return self._sample(records.read((index + step) % len(records)), processor)
            except (RecordError, ImageError) as error:
                broken.append(str(error))
            if len(broken) >= MOST:
                raise _RefusedError(f"{self.place}: {MOST} records for one batch cannot be read; the log names each")
        raise _RefusedError(f"{self.place}: none of its {len(records)} pages can be read; the log names each")

    def _sample(self, record: Record, processor: OCR2Processor) -> tuple[Sample, tuple[Tensor, Tensor]]:
        if not record.text.strip():
            raise RecordError(record.key, "its text is empty")
        answer = processor.encode(record.text)
        if processor.image_token in answer:
            raise RecordError(record.key, f"its text holds {IMAGE}, which stands for an image")
        page, crops = processor.views(record.image)
        begin = [processor.begin_token, *processor.expand(self.prompt, [len(crops)])]
        if len(begin) >= self.length:
            raise _RefusedError(
                f"data.sequence_length is {self.length}, but {record.key} with its prompt takes {len(begin)} tokens: "
                "raise it, or lower data.views.max_crops"
            )
        tokens = [*begin, *answer, processor.end_token]
        return (tokens[: self.length], len(begin)), (page, crops)


class Tally:
    """Counts records and those that are broken, over all processes that read them.

    Args:
        place: key of the configuration that complaints begin with.
        max_broken: share of the records read so far that may be broken.
    """

    def __init__(self, place: str, max_broken: float) -> None:
        self.place, self.max_broken = place, max_broken
        self.tried, self.broken = 0, 0

    def take(self, reading: Reading) -> PageBatch:
        """Count a reading, log what is broken, and give the batch.

        Raises:
            ValueError: too many records are broken, or there is no batch.
        """
        self.tried += reading.tried
        for sentence in reading.broken:
            self.broken += 1
            log.warning("%s; skipped, %d of %d records so far", sentence, self.broken, self.tried)
        if reading.broken and too_many(self.broken, self.tried, self.max_broken):
            raise ValueError(
                f"{self.place}: {self.broken} of {self.tried} records cannot be read, the last one "
                f"{reading.broken[-1]}: mend them, or raise data.max_broken above {self.max_broken}"
            )
        if reading.batch is None:
            raise ValueError(reading.refused)
        return reading.batch


class PageLoader(StatefulDataLoader):
    """Batches of `PageRows`, read in this process or in others; its state is the exact sample, and the counts.

    Args:
        rows: to read.
        tally: of what is broken.
        options: of `StatefulDataLoader`.
    """

    def __init__(self, rows: PageRows, tally: Tally, **options: Any) -> None:
        super().__init__(rows, collate_fn=_as_is, **options)
        self.tally = tally

    def __iter__(self) -> Iterator[PageBatch]:
        """Count what was read, and give the batches.

        Raises:
            ValueError: too many records are broken, or none can be read.
        """
        for reading in super().__iter__():
            yield self.tally.take(reading)

    def state_dict(self) -> dict[str, Any]:
        """Where it is, and what was counted."""
        return {**super().state_dict(), "records": [self.tally.tried, self.tally.broken]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there."""
        state = dict(state_dict)
        self.tally.tried, self.tally.broken = state.pop("records", (0, 0))
        super().load_state_dict(state)


class StreamSampler(EpochSampler):
    """Numbers in ascending order, a pass after the other without going back; their records are shuffled by `Draws`."""

    def __iter__(self) -> Iterator[int]:
        if self.yielded and self.next_yielded is None:
            self.epoch += 1
        self.yielded, self.next_yielded = self.next_yielded or 0, None
        start = self.epoch * self.num_samples * self.num_replicas + self.rank
        while self.yielded < self.num_samples:
            self.yielded += 1
            yield start + (self.yielded - 1) * self.num_replicas


def too_many(broken: int, tried: int, share: float) -> bool:
    """Whether more than a share of the records is broken, as far as that can be said."""
    return broken > share * max(tried, FEWEST)


class _RefusedError(Exception):
    """No batch can be made."""


def _as_is(reading: Reading) -> Reading:
    return reading


def generator(seed: int) -> torch.Generator:
    """A loader's own: an iterator draws from one when it is made, and the global one is the model's."""
    return torch.Generator().manual_seed(seed)
