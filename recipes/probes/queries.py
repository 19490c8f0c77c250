"""What an encoder and its decoder make of queries that are shuffled, reversed or zeroed."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from encoders.deep_encoder import DeepEncoder
from encoders.ocr2 import OCR2
from mhc import Context
from recipes.data.page_batch import PageBatch
from recipes.modules.optimization import cross_entropy
from recipes.probes.attention import Looks

# how many queries -> which query stands at each place
Rearrangement = Callable[[int], Tensor]


@dataclass(frozen=True)
class Change:
    """What a change of the queries does.

    Attributes:
        output: ||f(changed) - f|| / ||f|| over the encoder's output.
        undone: the same after each output is put back to where its query was; 0 where a query's output does not
            depend on its place. None for queries that did not move.
        loss: by how many nats per token the decoder's loss on the page's text rises; None without text.
    """

    output: float
    undone: float | None
    loss: float | None = None


def changes(vision: DeepEncoder, views: Tensor, looks: Looks, seed: int) -> list[dict[str, Change]]:
    """The effect of each change on the encoder's output, for each view of a batch [B, 3, H, W].

    Args:
        vision: with a query bank.
        views: the batch that `looks` is of.
        looks: of the queries as they are.
        seed: of the shuffled order.
    """
    usual = looks.output.double()
    found: list[dict[str, Change]] = [{} for _ in views]
    for name, order in rearrangements(seed).items():
        with rearranged(vision, order):
            output = _output(vision, views)
        places = order(usual.shape[1]).to(output.device)
        back = torch.empty_like(output)
        back[:, places] = output
        far, near = _relative(output, usual), _relative(back, usual)
        for view, changed in enumerate(found):
            changed[name] = Change(far[view], near[view])
    with zeroed(vision):
        far = _relative(_output(vision, views), usual)
    for view, changed in enumerate(found):
        changed["zeroed"] = Change(far[view], None)
    return found


@torch.no_grad()
def losses(network: OCR2, batch: PageBatch, seed: int) -> dict[str, float]:
    """By how many nats per token the loss on a batch rises under each change, and the loss itself as `usual`."""
    usual = _loss(network, batch)
    found = {"usual": usual}
    for name, order in rearrangements(seed).items():
        with rearranged(network.vision, order):
            found[name] = _loss(network, batch) - usual
    with zeroed(network.vision):
        found["zeroed"] = _loss(network, batch) - usual
    return found


def rearrangements(seed: int) -> dict[str, Rearrangement]:
    """The orders that queries are put in, by name."""

    def shuffled(count: int) -> Tensor:
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed))

    return {"shuffled": shuffled, "reversed": lambda count: torch.arange(count).flip(0)}


def rearranged(vision: DeepEncoder, order: Rearrangement) -> contextlib.AbstractContextManager[None]:
    """While it lasts, every bank's queries stand in another order."""
    return _changed(vision, lambda queries: queries[order(len(queries)).to(queries.device)])


def zeroed(vision: DeepEncoder) -> contextlib.AbstractContextManager[None]:
    """While it lasts, every query is zero."""
    return _changed(vision, torch.zeros_like)


@contextlib.contextmanager
def _changed(vision: DeepEncoder, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    if vision.queries is None:
        raise ValueError(f"{type(vision.encoder).__name__} has no query bank whose queries could be changed")
    handle = vision.queries.register_forward_hook(lambda module, arguments, queries: change(queries))
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _output(vision: DeepEncoder, views: Tensor) -> Tensor:
    caught: list[Any] = []
    handle = vision.encoder.register_forward_hook(lambda module, arguments, output: caught.append(output))
    try:
        vision.encode(views)
    finally:
        handle.remove()
    return caught[0].double()


def _loss(network: OCR2, batch: PageBatch) -> float:
    images = batch.images
    if images is not None:
        images = images.to(batch.tokens.device, network.vision.projector.weight.dtype)
    context = Context(positions=batch.positions, documents=batch.documents)
    return float(cross_entropy(network(batch.tokens, images, context), batch.labels))


def _relative(output: Tensor, usual: Tensor) -> list[float]:
    return ((output - usual).flatten(1).norm(dim=1) / usual.flatten(1).norm(dim=1)).tolist()
