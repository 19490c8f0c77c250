"""The whole model, views of pages and text -> text, as a Lightning module."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from encoders.ocr2 import OCR2
from encoders.processor import OCR2Processor
from encoders.views import ImageBatch, Views
from mhc import Context, build, describe
from mhc.context import Observer
from mhc.initialisation import initialise
from mhc.routing import Routing, load_balancing_loss, router_statistics
from mhc.trunk import Trunk
from recipes.budget import TYPICAL_PAGE, Budget, FlopCounter
from recipes.callbacks.measure import log_metrics
from recipes.data.page_batch import PageBatch, empty_images
from recipes.modules.hand_off import (
    Pretrained,
    StartFrom,
    check_pretrained,
    check_start,
    load_pretrained,
    require_pretrained,
    require_start,
    take_start,
)
from recipes.modules.lora import LoRA, adapt, linear_layers
from recipes.modules.optimization import Optimized, cross_entropy
from recipes.modules.parts import freeze, rate_groups, require_used, rest


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
        frozen: patterns of names in the network, such as vision or decoder.embedding: these parts are not trained,
            run in evaluation mode, and without gradients unless something before them trains.
        learning_rates: pattern -> learning rate in place of the optimizer's; the first that names a parameter counts.
        pretrained: sources of tokenizer, encoder and decoder.
        start_from: parts of a trained model, which come after `pretrained`; a run that is resumed needs neither.
        lora: adapters in place of the linear layers' own training.
        initial_std: of the sublayers' linear layers, in place of the 0.02 that suits widths near 1000; small models
            learn sooner from about 1 / sqrt(width).

    Raises:
        ValueError: a negative `load_balancing`, an `initial_std` of 0 or less, a `watched` that is no trunk, a pattern
            that names nothing, nothing left to train, a part without a loader of pretrained weights.
        TypeError: a network with a part that cannot be written down, see `mhc.describe`.
    """

    def __init__(
        self,
        network: OCR2,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None = None,
        load_balancing: float = 0.001,
        watched: str = "decoder.trunk",
        frozen: Sequence[str] = (),
        learning_rates: dict[str, float] | None = None,
        pretrained: dict[str, Pretrained] | None = None,
        start_from: StartFrom | None = None,
        lora: LoRA | None = None,
        initial_std: float | None = None,
    ) -> None:
        super().__init__()
        if load_balancing < 0 or (initial_std is not None and initial_std <= 0):
            raise ValueError(
                f"load_balancing must not be negative and initial_std above 0, got {load_balancing} and {initial_std}"
            )
        trunks = [name for name, part in network.named_modules() if isinstance(part, Trunk)]
        if watched not in trunks:
            raise ValueError(f"watched must be a trunk of the network, {', '.join(trunks)}, got {watched!r}")
        if initial_std is not None:
            for part in network.modules():
                if isinstance(part, Trunk):
                    initialise(part.sublayers, (len(part.sublayers) + 1) // 2, initial_std)
        require_used(frozen, [name for name, _ in network.named_modules()] + list(network.state_dict()), "frozen")
        freeze(network, frozen)
        if lora is not None:
            linear_layers(network, lora.parts)
        elif not any(parameter.requires_grad for parameter in network.parameters()):
            raise ValueError("frozen leaves nothing to train: take a part out of it, or adapt some with lora")
        if start_from is not None:
            require_start(network, start_from)
        require_pretrained(network, pretrained or {})
        # the node in the network's place: hyperparameters are copied
        self.save_hyperparameters(logger=False, ignore=["network"])
        self.save_hyperparameters({"network": describe(network)}, logger=False)
        self.network = network
        self.optimizer, self.lr_scheduler, self.load_balancing = optimizer, lr_scheduler, load_balancing
        self.watched, self.frozen, self.learning_rates = watched, list(frozen), dict(learning_rates or {})
        self.pretrained, self.start_from, self.lora = dict(pretrained or {}), start_from, lora
        rate_groups(network, {} if lora else self.learning_rates)
        self.train()
        self._metrics: dict[str, Tensor] = {}
        self._logged = -1
        self._lacking: ValueError | None = None

    @property
    def trunk(self) -> Trunk:
        """The one that is watched."""
        return cast(Trunk, self.network.get_submodule(self.watched))

    def setup(self, stage: str) -> None:
        """Compare the tokens with the data's, and take the weights that the run starts with.

        Raises:
            ValueError: the data's tokenizer has another image token, or more tokens than the model.
        """
        processor = getattr(getattr(self._trainer, "datamodule", None), "processor", None)
        if processor is not None:
            _require_tokens(self.network, processor)
        if stage != "fit":
            return
        try:
            load_pretrained(self.network, self.pretrained)
            if self.start_from is not None:
                take_start(self.network, self.start_from)
        except ValueError as error:
            # whether a checkpoint follows, which has all weights, is not known yet
            self._lacking = error

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Need nothing else: what a resumed run started with may be gone."""
        self._lacking = None

    def on_train_start(self) -> None:
        """Refuse to train without the weights that the run is to start with.

        Raises:
            ValueError: they cannot be read or do not fit.
        """
        if self._lacking is not None:
            raise self._lacking

    def check_sources(self) -> None:
        """Look at what `setup` will read, by names and shapes; the network may be without storage.

        Raises:
            ValueError: they cannot be read or do not fit; as `on_train_start`.
        """
        check_pretrained(self.pretrained)
        if self.start_from is not None:
            check_start(self.network, self.start_from)

    def configure_model(self) -> None:
        """Put the adapters in, once the weights are there; then shard."""
        if self.lora is not None:
            adapt(self.network, self.lora)
            self.train(self.training)
        super().configure_model()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of what is not frozen; frozen parts stay in evaluation mode."""
        super().train(mode)
        rest(self.network, self.frozen)
        return self

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained, by learning rate and weight decay."""
        return rate_groups(self.network, self.learning_rates)

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
        """Log means over the tokens that are asked for: `val/loss`, and `val/accuracy` of the likeliest token.

        `val/order_accuracy` is that of `PageBatch.deciding`, where the data know it.
        """
        logits, asked = self._read(batch), batch.labels >= 0
        right = (logits.argmax(-1) == batch.labels).float()
        found = {"val/loss": cross_entropy(logits, batch.labels), "val/accuracy": right[asked].mean()}
        options = {"prog_bar": True, "logger": False, "on_epoch": True, "sync_dist": True}
        self.log_dict(found, batch_size=int(asked.sum()), **options)
        if batch.deciding is not None:
            order = right[batch.deciding].mean()
            self.log("val/order_accuracy", order, batch_size=int(batch.deciding.sum()), **options)

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
            freeze(network, self.frozen)
            if self.lora is not None:
                adapt(network, self.lora)
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
        if self._trainer is not None and self.trainer.world_size > 1:
            views = getattr(self.trainer.datamodule, "views", None)  # type: ignore[attr-defined]
            batch = batch if views is None else batch.filled(views)
        return self(batch.tokens, batch.images, Context(positions=batch.positions, documents=batch.documents, **more))

    def _is_due(self, step: int) -> bool:
        return step % max(self.trainer.log_every_n_steps, 1) == 0 or step == self.trainer.max_steps


def _require_tokens(network: OCR2, processor: OCR2Processor) -> None:
    size = processor.tokenizer.get_vocab_size()
    if processor.image_token != network.image_token:
        raise ValueError(
            f"model.network.image_token is {network.image_token}, but it is {processor.image_token} in data.tokenizer: "
            f"set model.network.image_token to {processor.image_token}"
        )
    if size > network.decoder.vocabulary_size:
        raise ValueError(
            f"model.network.decoder.vocabulary_size is {network.decoder.vocabulary_size}, but data.tokenizer has "
            f"{size} tokens: raise it to {size}"
        )


def _statistics(routings: list[Routing], mask: Tensor) -> dict[str, Tensor]:
    """Every router's statistics under router/sublayer_03/..., and their means under router/..."""
    found = {f"sublayer_{routing.index:02d}": router_statistics(routing, mask) for routing in routings}
    metrics = {f"router/{part}/{key}": value for part, values in found.items() for key, value in values.items()}
    for key in next(iter(found.values())):
        metrics[f"router/{key}"] = torch.stack([torch.as_tensor(values[key]) for values in found.values()]).mean()
    return metrics
