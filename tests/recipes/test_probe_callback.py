"""The callback: numbers in all loggers, pictures in TensorBoard, no traces in the model."""

from functools import partial

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from probe_cases import PIXELS, VIEWS, in_columns, in_disorder, network
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from encoders.deep_encoder import DeepEncoder
from encoders.patch import PatchTokenizer
from encoders.raster import RasterEncoder
from encoders.views import ImageBatch
from recipes.callbacks import QueryOrder
from recipes.data.page_batch import PageBatch
from recipes.modules import OCR, LanguageModel
from recipes.probes.measure import Prober, probe_all
from recipes.probes.summary import summarise

IMAGE = 259


class Pages(LightningDataModule):
    """The same two pages for training and probing."""

    views, processor = VIEWS, None

    def probe_batch(self, sequences: int) -> PageBatch:
        slots = self.trainer.lightning_module.network.vision.tokens_per_view(PIXELS, PIXELS) + 1
        pages = [in_columns(), *in_disorder(2)][:sequences]
        rows = [([*[IMAGE] * slots, *range(3, 12 + k), 1], slots) for k in range(len(pages))]
        return PageBatch.collate(rows, ImageBatch.collate([VIEWS(page.image) for page in pages]), 2)

    def train_dataloader(self) -> DataLoader:
        return DataLoader([self.probe_batch(2)] * 5, batch_size=None)


class KnownPages(Pages):
    """Pages whose blocks are known."""

    def probe_pages(self, count: int):
        return [in_columns(), *in_disorder(2)][:count]


def fit(folder, data, callback, model=None) -> OCR:
    torch.manual_seed(1)
    module = OCR(model or network(), partial(torch.optim.SGD, lr=0.1))
    trainer = Trainer(
        max_steps=5, accelerator="cpu", callbacks=[] if callback is None else [callback], enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, log_every_n_steps=1,
        logger=[TensorBoardLogger(folder, name="", version=""), CSVLogger(folder, name="", version="csv")],
    )  # fmt: skip
    trainer.fit(module, data)
    return module


def test_pages_with_blocks(tmp_path):
    callback = QueryOrder(every_n_steps=3, pages=2)
    module = fit(tmp_path, KnownPages(), callback)
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    tags = events.Tags()
    scalars = {tag for tag in tags["scalars"] if tag.startswith("query_order/")}
    order = {"mass", "centroid", "beyond_raster", "x", "y", "raster", "width", "p"}
    changed = {f"{change}/{mark}" for change in ("shuffled", "reversed") for mark in ("output", "undone", "loss")}
    moved = {
        f"{move}/{mark}"
        for move in ("columns_exchanged", "turned_by_90_degrees", "turned_by_180_degrees")
        for mark in ("content", "place")
    }
    assert scalars == {f"query_order/{name}" for name in order | changed | moved | {"zeroed/output", "zeroed/loss"}}
    assert [event.step for event in events.Scalars("query_order/mass")] == [0, 3, 5]
    assert set(tags["images"]) == {"query_order/path_0", "query_order/path_1"}
    assert [event.step for event in events.Images("query_order/path_0")] == [0, 3, 5]
    assert {path.name for path in tmp_path.glob("*.png")} == {"query_order_0.png", "query_order_1.png"}
    assert Image.open(tmp_path / "query_order_0.png").size[0] == events.Images("query_order/path_0")[-1].width
    # the last probe is one of the trained model
    pages = [lambda page=page: page for page in KnownPages().probe_pages(2)]
    again = summarise(probe_all(Prober(module.network.vision, VIEWS), pages))
    assert events.Scalars("query_order/mass")[-1].value == pytest.approx(again.order["mass"].mean, abs=1e-6)
    assert callback.summary.order["mass"].mean == pytest.approx(again.order["mass"].mean)


def test_pages_without_blocks_are_drawn_and_compared_with_x_and_y(tmp_path):
    fit(tmp_path, Pages(), QueryOrder(every_n_steps=100, pages=2, pictures=1))
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"query_order/x", "query_order/y", "query_order/width", "query_order/zeroed/loss"} <= scalars
    assert not scalars & {"query_order/mass", "query_order/p", "query_order/columns_exchanged/content"}
    assert [event.step for event in events.Images("query_order/path_0")] == [0, 5]
    assert "query_order/path_1" not in events.Tags()["images"]


def test_an_encoder_without_queries_has_only_its_raster(tmp_path):
    model = network()
    model.vision = DeepEncoder(PatchTokenizer(width=16, patch=8), RasterEncoder(width=16), 16)
    fit(tmp_path, KnownPages(), QueryOrder(pages=1), model)
    scalars = set(EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"])
    assert "query_order/raster" in scalars
    assert not any("shuffled" in name for name in scalars)


def test_the_probe_leaves_no_trace(tmp_path):
    probed = fit(tmp_path / "a", KnownPages(), QueryOrder(every_n_steps=2, pages=1))
    alone = fit(tmp_path / "b", KnownPages(), None)
    for one, other in zip(probed.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not any(module._forward_hooks for module in probed.network.modules())


@pytest.mark.parametrize("argument", ["every_n_steps", "pages", "pictures"])
def test_counts_below_one_are_refused(argument):
    with pytest.raises(ValueError, match=rf"query_order.{argument} must be at least 1, got 0"):
        QueryOrder(**{argument: 0})


def test_a_module_without_a_vision_side_is_named():
    module = LanguageModel.__new__(LanguageModel)
    torch.nn.Module.__init__(module)
    with pytest.raises(ValueError, match="LanguageModel has no vision side: remove"):
        QueryOrder().on_train_start(Trainer(logger=False, accelerator="cpu"), module)
