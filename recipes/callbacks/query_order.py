"""In which order the queries look at pages, during training."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import move_data_to_device
from PIL import Image
from torch.distributed.fsdp import FSDPModule

from encoders.views import Views
from recipes.callbacks.measure import log_metrics, undisturbed
from recipes.data.page_batch import PageBatch
from recipes.files import replacing

if TYPE_CHECKING:
    from recipes.probes.order import Measured
    from recipes.probes.pages import ProbePage
    from recipes.probes.summary import Statistic, Summary
    from recipes.probes.views import View

MARKS = ("centroid", "mass", "beyond_raster", "x", "y", "raster", "width")


class QueryOrder(Callback):
    """Probe a few held-out pages every k steps: numbers to all loggers, pages with the queries' path to TensorBoard.

    The data module gives the pages with their blocks, see `recipes.probes.truth.probe_pages`; those of one that knows
    of no blocks are drawn and compared with x and y alone. Step 0 is the untrained model, which is what chance looks
    like. The probe leaves modes, gradients and random states alone.

    Names: query_order/mass, centroid, beyond_raster, x, y, raster, width and p as in `recipes.probes.order.Order`;
    query_order/shuffled/output, undone and loss, likewise reversed and zeroed; query_order/columns_exchanged/content
    and place, likewise turned_by_90_degrees and turned_by_180_degrees. Pictures: query_order/path_0, ...; those of the
    last probe lie beside TensorBoard's events as query_order_0.png, ...

    Args:
        every_n_steps: k; step 0 and the last step are probed, too.
        pages: how many.
        pictures: of those that a raster scan reads worst: there, position alone does not give the order.

    Raises:
        ValueError: a count below 1; in training, a module without a vision side, or one whose weights are sharded.
    """

    def __init__(self, every_n_steps: int = 1000, pages: int = 2, pictures: int = 2) -> None:
        for name, count in (("every_n_steps", every_n_steps), ("pages", pages), ("pictures", pictures)):
            if count < 1:
                raise ValueError(f"query_order.{name} must be at least 1, got {count}")
        self.every_n_steps, self.pages, self.pictures = every_n_steps, pages, pictures
        #: of the last probe
        self.summary: Summary | None = None
        self._step = -1
        self._pages: list[ProbePage] = []
        self._batch: PageBatch | None = None
        self._views = Views()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe the untrained model; a resumed run has been there."""
        if not hasattr(getattr(pl_module, "network", None), "vision"):
            raise ValueError(
                f"QueryOrder looks at queries, and {type(pl_module).__name__} has no vision side: remove the callback"
            )
        if isinstance(pl_module.network, FSDPModule):
            raise ValueError("QueryOrder cannot read sharded weights: remove it, or train with ddp")
        if trainer.global_step == 0:
            self.probe(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Probe every k steps and after the last one."""
        step = trainer.global_step
        if self._step != step and (step % self.every_n_steps == 0 or step == trainer.max_steps):
            self.probe(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe the trained model, if its last step was not."""
        if self._step != trainer.global_step:
            self.probe(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The step of the last probe."""
        return {"step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the step over from the run that is resumed."""
        self._step = state_dict["step"]

    def probe(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, log and draw."""
        # slow to import, and they import modules that import callbacks
        from recipes.probes.measure import Prober, Settings, probe_all
        from recipes.probes.picture import paths, pixels_of
        from recipes.probes.queries import losses
        from recipes.probes.summary import summarise

        self._step = trainer.global_step
        if not trainer.is_global_zero:
            return
        if self._batch is None:
            self._prepare(trainer.datamodule, pl_module.device)  # type: ignore[attr-defined]
        assert self._batch is not None
        network: Any = pl_module.network
        shown: list[tuple[ProbePage, Sequence[View], Sequence[Measured]]] = []

        def show(page: "ProbePage", seen: "Sequence[View]", measured: "Sequence[Measured]") -> None:
            shown.append((page, seen, measured))

        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        with undisturbed(pl_module), trainer.precision_plugin.forward_context():
            prober = Prober(network.vision, self._views, Settings(text_tokens=0))
            sources = [lambda page=page: page for page in self._pages]
            found = probe_all(prober, sources, show=show if boards else None)
            queries = network.vision.queries is not None
            risen = losses(network, self._batch, prober.settings.seed) if queries else {}
        self.summary = summarise(found)
        metrics = _numbers(self.summary)
        metrics |= {f"query_order/{name}/loss": value for name, value in risen.items() if name != "usual"}
        log_metrics(trainer, metrics, self._step)
        shown.sort(key=lambda found: found[0].raster)
        for number, (page, seen, measured) in enumerate(shown[: self.pictures]):
            pixels = pixels_of(paths(seen, measured, page.name, self._views.mean, self._views.std)[0])
            for board in boards:
                board.experiment.add_image(f"query_order/path_{number}", pixels, self._step, dataformats="HWC")
                with replacing(Path(board.log_dir) / f"query_order_{number}.png") as beside:
                    Image.fromarray(pixels).save(beside, format="PNG")

    def _prepare(self, data: Any, device: torch.device) -> None:
        from recipes.probes.truth import probe_pages

        self._pages, self._views = probe_pages(data, self.pages)
        self._batch = move_data_to_device(data.probe_batch(self.pages), device)


def _numbers(summary: "Summary") -> dict[str, float]:
    values: dict[str, float] = {f"query_order/{name}": summary.order[name].mean for name in MARKS}
    p = summary.order["mass"].p
    values["query_order/p"] = math.nan if p is None else p
    for name, change in summary.changes.items():
        values |= _under(f"query_order/{name}", change, ("output", "undone"))
    for name, move in summary.moves.items():
        values |= _under(f"query_order/{name.replace(' ', '_')}", move, ("content", "place"))
    # without blocks, or without queries, some have no value
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _under(prefix: str, statistics: "Mapping[str, Statistic]", names: Sequence[str]) -> dict[str, float]:
    return {f"{prefix}/{name}": statistics[name].mean for name in names}
