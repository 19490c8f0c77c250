"""Everything the probes measure, page by page."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from encoders.deep_encoder import DeepEncoder
from encoders.images import ImageError
from encoders.ocr2 import OCR2
from encoders.processor import MARKDOWN, OCR2Processor
from encoders.views import ImageBatch, Views
from mhc import ResidualTopology
from recipes.data.page_batch import PageBatch
from recipes.probes.attention import Looks, look
from recipes.probes.following import Movement, follow
from recipes.probes.moves import moves_of
from recipes.probes.order import Array, Measured, Order, measure, null, shuffles, spearman
from recipes.probes.pages import ProbePage
from recipes.probes.queries import Change, changes, losses
from recipes.probes.views import View, views_of

# a page that is opened when its turn comes
Source = Callable[[], ProbePage]
Shown = Callable[[ProbePage, Sequence[View], Sequence[Measured]], None]


@dataclass(frozen=True)
class Settings:
    """How pages are probed.

    Attributes:
        crops: probe the crops, too; by default the global view alone.
        moves: probe pages with their columns exchanged and turned.
        changes: probe with queries shuffled, reversed and zeroed.
        permutations: shuffled orders behind a p-value.
        text_tokens: of a page's text, at most, for the loss; 0 for no loss.
        seed: of the shuffles.
    """

    crops: bool = False
    moves: bool = True
    changes: bool = True
    permutations: int = 1000
    text_tokens: int = 512
    seed: int = 0


@dataclass(frozen=True)
class PageProbe:
    """The numbers of one page.

    Attributes:
        name: of the page.
        page_type: of the ground truth.
        layout: of the ground truth.
        views: the global view, then the crops.
        layers: Spearman of query index and `mass`, for every attention sublayer of the global view; index and y where
            there are no blocks.
        changes: of the queries, by name, on the global view; the loss is that of the whole page.
        loss: nats per token of the page's text; None where it was not asked for.
        movements: by the move's name.
    """

    name: str
    page_type: str
    layout: str
    views: tuple[Order, ...]
    layers: tuple[float, ...]
    changes: Mapping[str, Change]
    loss: float | None
    movements: Mapping[str, Movement]


@dataclass(frozen=True)
class Evidence:
    """A page's numbers and what chance would give in their place.

    Attributes:
        page: the numbers.
        nulls: of a number, under shuffled indices, [permutations].
    """

    page: PageProbe
    nulls: Mapping[str, Array]


class Prober:
    """Probes pages with one encoder.

    Args:
        vision: in evaluation mode.
        views: how pages are cut.
        settings: what is measured.
        network: the whole model, for the loss; None for no loss.
        processor: makes the text for the loss; None for no loss.
    """

    def __init__(
        self,
        vision: DeepEncoder,
        views: Views,
        settings: Settings | None = None,
        *,
        network: OCR2 | None = None,
        processor: OCR2Processor | None = None,
    ) -> None:
        self.vision, self.views, self.network, self.processor = vision, views, network, processor
        self.settings = Settings() if settings is None else settings

    def probe(self, page: ProbePage, show: Shown | None = None) -> Evidence:
        """Measure one page.

        Args:
            page: with blocks for everything that is about their order.
            show: called with the page's views and what was measured of each.

        Raises:
            ValueError: views that the model has no queries for, or an attention that is not known.
        """
        settings = self.settings
        seen = views_of(page, self.views, settings.crops)
        found, looks = self._look(seen)
        measured = [
            measure(_mean(each, at), each.grid, view.frame.size, view.ordered)
            for view, (each, at) in zip(seen, found, strict=True)
        ]
        nulls = self._nulls(measured)
        effects: dict[str, Change] = {}
        loss = None
        if settings.changes and not looks.raster:
            effects = changes(self.vision, self._ready([seen[0]]), looks, settings.seed)[0]
            effects, loss = self._with_loss(page, effects)
        movements = self._movements(page, seen[0], looks, nulls) if settings.moves else {}
        if show is not None:
            show(page, seen, measured)
        numbers = PageProbe(
            page.name,
            page.page_type,
            page.layout,
            tuple(each.order for each in measured),
            _by_layer(looks, seen[0]),
            effects,
            loss,
            movements,
        )
        return Evidence(numbers, nulls)

    def _ready(self, seen: Sequence[View]) -> Tensor:
        weight = self.vision.projector.weight
        return torch.stack([view.pixels for view in seen]).to(weight.device, weight.dtype)

    def _look(self, seen: Sequence[View]) -> tuple[list[tuple[Looks, int]], Looks]:
        overview = look(self.vision, self._ready(seen[:1]))
        found = [(overview, 0)]
        if len(seen) > 1:
            crops = look(self.vision, self._ready(seen[1:]))
            found += [(crops, number) for number in range(len(seen) - 1)]
        return found, overview

    def _nulls(self, measured: Sequence[Measured]) -> dict[str, Array]:
        parts: dict[str, list[Array]] = {"centroid": [], "mass": [], "beyond_raster": []}
        for each in measured:
            if each.by_mass is None or each.by_centroid is None:
                continue
            orders = self._shuffles(each.order.queries)
            parts["centroid"].append(null(each.by_centroid, orders))
            parts["mass"].append(null(each.by_mass, orders))
            parts["beyond_raster"].append(null(each.by_mass, orders, each.scan))
        return {name: np.mean(found, axis=0) for name, found in parts.items() if found}

    def _shuffles(self, queries: int) -> np.ndarray:
        return shuffles(queries, self.settings.permutations, self.settings.seed)

    def _movements(self, page: ProbePage, view: View, before: Looks, nulls: dict[str, Array]) -> dict[str, Movement]:
        movements = {}
        for moved in moves_of(page):
            new_view = views_of(moved.page, self.views)[0]
            after = look(self.vision, self._ready([new_view]))
            maps = _mean(before, 0), _mean(after, 0)
            found, by_content, by_place = follow(*maps, before.grid, view, new_view, moved)
            movements[moved.name] = found
            if by_content is not None and by_place is not None:
                orders = self._shuffles(len(by_content))
                content, place = null(by_content, orders), null(by_place, orders)
                nulls |= {
                    f"{moved.name}/content": content,
                    f"{moved.name}/place": place,
                    f"{moved.name}/difference": content - place,
                }
        return movements

    def _with_loss(self, page: ProbePage, effects: dict[str, Change]) -> tuple[dict[str, Change], float | None]:
        processor, limit = self.processor, self.settings.text_tokens
        if self.network is None or processor is None or not limit or not page.reading:
            return effects, None
        overview, crops = self.views(page.image)
        images = ImageBatch.collate([(overview, crops)])
        prompt = processor.expand(processor.encode(MARKDOWN), [len(crops)])
        begin = [processor.begin_token, *prompt]
        answer = [*processor.encode(page.reading), processor.end_token][:limit]
        batch = PageBatch.collate([([*begin, *answer], len(begin))], images, processor.padding_token)
        device = self.vision.projector.weight.device
        batch = batch._replace(tokens=batch.tokens.to(device), labels=batch.labels.to(device))
        risen = losses(self.network, batch, self.settings.seed)
        return {name: replace(change, loss=risen[name]) for name, change in effects.items()}, risen["usual"]


def probe_all(
    prober: Prober,
    sources: Sequence[Source],
    *,
    show: Shown | None = None,
    failed: Callable[[ImageError], None] | None = None,
    step: Callable[[], None] | None = None,
) -> list[Evidence]:
    """Probe pages one after the other; those whose image cannot be read are told to `failed` and left out."""
    found = []
    for source in sources:
        try:
            found.append(prober.probe(source(), show))
        except ImageError as error:
            if failed is None:
                raise
            failed(error)
        if step is not None:
            step()
    return found


@torch.no_grad()
def scrambled(vision: DeepEncoder, seed: int) -> DeepEncoder:
    """A copy with the entries of every parameter in random order: nothing that was learned, weights of the same size.

    It is what chance is measured by. Fresh weights would be smaller than trained ones, and large random weights alone
    can give an order: rotary positions make what a query looks at drift with its index. Topologies stay as they are.
    """
    twin = copy.deepcopy(vision)
    generator = torch.Generator().manual_seed(seed)
    kept = {
        id(part) for module in twin.modules() if isinstance(module, ResidualTopology) for part in module.parameters()
    }
    for parameter in twin.parameters():
        if id(parameter) not in kept:
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return twin.eval()


def _mean(looks: Looks, view: int) -> Array:
    return looks.maps[:, view].mean(0).double().numpy()


def _by_layer(looks: Looks, view: View) -> tuple[float, ...]:
    found = []
    for layer in looks.maps[:, 0].double().numpy():
        each = measure(layer, looks.grid, view.frame.size, view.ordered)
        found.append(each.order.y if each.by_mass is None else spearman(np.arange(len(layer)), each.by_mass))
    return tuple(found)
