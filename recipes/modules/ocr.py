"""The whole model, views of pages and text -> text, as a Lightning module."""

from dataclasses import replace
from typing import Any, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from encoders.ocr2 import OCR2
from encoders.views import ImageBatch, Views
from mhc import Context, build, describe
from mhc.context import Observer
from mhc.routing import Routing, load_balancing_loss, router_statistics
from mhc.trunk import Trunk
from recipes.budget import TYPICAL_PAGE, Budget, FlopCounter
from recipes.callbacks.measure import log_metrics
from recipes.data.page_batch import PageBatch, empty_images
from recipes.modules.optimization import Optimized, cross_entropy


class OCR(Optimized):
    """Train `encoders.OCR2` on `PageBatch`es; losses are nats per token that is asked for.

    The loss is the cross-entropy, plus `load_balancing` times the sum over the mixtures of experts of
    sum_e [count_e / (S k / E)] mean_t p_e, the mean over sequences (arXiv 2401.06066, eq. 12-14, per sequence).

    Rows are padded on the right, where no real token sees the padding: attention is given no mask.

    Args:
        network: the model.
        optimizer: parameter groups -> optimizer.
        lr_scheduler: optimizer -> schedule, stepped once an optimizer step; None holds the rate.
        load_balancing: weight of the load-balancing loss; 0.001 in the paper's models.
        watched: path within the network of the trunk that `probe` looks into: decoder.trunk, vision.encoder.trunk,
            vision.tokenizer.trunk, or one of mBART's two, vision.encoder.encoder and vision.encoder.decoder.

    Raises:
        ValueError: a negative `load_balancing`, or a `watched` that is no trunk.
        TypeError: a network with a part that cannot be written down, see `mhc.describe`.
    """

    def __init__(
        self,
        network: OCR2,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None = None,
        load_balancing: float = 0.001,
        watched: str = "decoder.trunk",
    ) -> None:
        super().__init__()
        if load_balancing < 0:
            raise ValueError(f"load_balancing must not be negative, got {load_balancing}")
        trunks = [name for name, part in network.named_modules() if isinstance(part, Trunk)]
        if watched not in trunks:
            raise ValueError(f"watched must be a trunk of the network, {', '.join(trunks)}, got {watched!r}")
        # the node in the network's place: hyperparameters are copied
        self.save_hyperparameters(logger=False, ignore=["network"])
        self.save_hyperparameters({"network": describe(network)}, logger=False)
        self.network = network
        self.optimizer, self.lr_scheduler, self.load_balancing = optimizer, lr_scheduler, load_balancing
        self.watched = watched
        self._metrics: dict[str, Tensor] = {}
        self._logged = -1

    @property
    def trunk(self) -> Trunk:
        """The one that is watched."""
        return cast(Trunk, self.network.get_submodule(self.watched))

    def setup(self, stage: str) -> None:
        """Compare the tokens.

        Raises:
            ValueError: the data's tokenizer has another image token, or more tokens than the model.
        """
        data = getattr(self._trainer, "datamodule", None)
        if getattr(data, "processor", None) is None:
            return
        image, size = data.processor.image_token, data.processor.tokenizer.get_vocab_size()
        if image != self.network.image_token:
            raise ValueError(
                f"model.network.image_token is {self.network.image_token}, but it is {image} in data.tokenizer: set "
                f"model.network.image_token to {image}"
            )
        if size > self.network.decoder.vocabulary_size:
            raise ValueError(
                f"model.network.decoder.vocabulary_size is {self.network.decoder.vocabulary_size}, but data.tokenizer "
                f"has {size} tokens: raise it to {size}"
            )

    def forward(self, tokens: Tensor, images: ImageBatch | None = None, context: Context | None = None) -> Tensor:
        """Token numbers [B, S] and the images of their slots -> logits [B, S, V]."""
        if images is not None:
            images = images.to(tokens.device, self.network.vision.projector.weight.dtype)
        return self.network(tokens, images, context)

    def training_step(self, batch: PageBatch, batch_idx: int) -> Tensor:
        """Cross-entropy and load balancing, a scalar."""
        routings: list[Routing] = []
        loss = cross_entropy(self._read(batch, routings=routings), batch.labels)
        self._metrics = {"train/cross_entropy": loss.detach()}
        if routings:
            balance = torch.stack([load_balancing_loss(routing, mask=batch.mask) for routing in routings]).sum()
            loss = loss + self.load_balancing * balance
            self._metrics["train/load_balancing"] = balance.detach()
            if self._trainer is not None and self._is_due(self.trainer.global_step + 1):
                self._metrics |= _statistics(routings, batch.mask)
        self.log("train/loss", loss, prog_bar=True, logger=False)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: PageBatch, batch_idx: int) -> None:
        """Log the parts of the loss and what the routers do, every `trainer.log_every_n_steps` and at the end."""
        step = self.trainer.global_step
        if step != self._logged and self._is_due(step):
            self._logged = step
            log_metrics(self.trainer, {name: float(value) for name, value in self._metrics.items()}, step)

    def validation_step(self, batch: PageBatch, batch_idx: int) -> None:
        """Log means over the tokens that are asked for: `val/loss`, and `val/accuracy` of the likeliest token."""
        logits, asked = self._read(batch), batch.labels >= 0
        found = {
            "val/loss": cross_entropy(logits, batch.labels),
            "val/accuracy": (logits.argmax(-1) == batch.labels)[asked].float().mean(),
        }
        tokens = int(asked.sum())
        self.log_dict(found, prog_bar=True, logger=False, on_epoch=True, sync_dist=True, batch_size=tokens)

    def probe(self, batch: PageBatch, observe: Observer) -> Tensor:
        """Run a batch while `observe(index, topology, state, carry)` looks into the watched trunk; returns the logits.

        The tokenizer and the encoder run for the pages first and then for the crops, which are not looked at.
        """

        def look(trunk: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            handle.remove()
            x, *given = arguments
            return x, replace(given[0] if given else Context(), observe=observe)

        handle = self.trunk.register_forward_pre_hook(look)
        try:
            return self._read(batch)
        finally:
            handle.remove()

    def budget(self, sequence_length: int, views: Views | None = None) -> Budget:
        """Count parameters and FLOPs of a training step on one typical page, on a copy without storage.

        Args:
            sequence_length: S, of visual tokens and text; at least as many as the page's visual tokens are counted.
            views: how pages are cut; None takes the data's, or the defaults.
        """
        views = views or getattr(getattr(self._trainer, "datamodule", None), "views", None) or Views()
        with torch.device("meta"):
            network = build(describe(self.network))
            for module in network.modules():
                if isinstance(module, Trunk):
                    module.recompute = None  # the model's FLOPs, not what a step of it costs
            images = empty_images(views, *TYPICAL_PAGE)
            tokens = torch.zeros(1, max(sequence_length, *network.vision.lengths(images)), dtype=torch.int64)
            with FlopCounter() as counter:
                cross_entropy(network(tokens, images), tokens).backward()
        parameters = sum(parameter.numel() for parameter in network.parameters())
        return Budget(parameters, counter.total / tokens.numel())

    def _read(self, batch: PageBatch, **more: Any) -> Tensor:
        given = {name: getattr(batch, name, None) for name in ("positions", "documents")}
        return self(batch.tokens, batch.images, Context(**given, **more))

    def _is_due(self, step: int) -> bool:
        return step % max(self.trainer.log_every_n_steps, 1) == 0 or step == self.trainer.max_steps


def _statistics(routings: list[Routing], mask: Tensor) -> dict[str, Tensor]:
    """Every router's statistics under router/sublayer_03/..., and their means under router/..."""
    found = {f"sublayer_{routing.index:02d}": router_statistics(routing, mask) for routing in routings}
    metrics = {f"router/{part}/{key}": value for part, values in found.items() for key, value in values.items()}
    for key in next(iter(found.values())):
        metrics[f"router/{key}"] = torch.stack([torch.as_tensor(values[key]) for values in found.values()]).mean()
    return metrics
