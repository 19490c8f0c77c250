"""Signal gain, gradient and stream norms during training."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor
from torch.optim import Optimizer

from mhc import ResidualTopology
from mhc.signal_gain import backward_gain, composites, forward_gain, log_column_error, log_row_extremes
from recipes.callbacks import figures
from recipes.callbacks.measure import log_metrics, norm_of_gradients, undisturbed

Listener = Callable[[int, Mapping[str, float]], None]

# of a mixing that is the identity
IDENTITY = {
    "forward": 1.0,
    "backward": 1.0,
    "forward_max": 1.0,
    "backward_max": 1.0,
    "log_row_max": 0.0,
    "log_row_min": 0.0,
    "log_column_error": 0.0,
}

LAYOUT = {
    "signal gain": {
        "composite, forward": ["Multiline", ["signal_gain/composite/forward$"]],
        "composite, backward": ["Multiline", ["signal_gain/composite/backward$"]],
        "composite, largest over tokens": ["Multiline", [r"signal_gain/composite/(forward|backward)_max$"]],
    },
    "loss": {
        "train": ["Multiline", ["train/loss$"]],
        "validation": ["Multiline", ["val/loss$"]],
    },
    "cost": {"step, ms": ["Multiline", ["train/step_ms$"]]},
}


class SignalGain(Callback):
    """Run a fixed batch through the network every k steps and log what its mixing matrices do to a signal.

    The batch comes from the validation split and is the same for every model at a seed. The probe runs eagerly, in
    evaluation mode, without gradients, and leaves every random state as it was. Names, with {part} `composite` or
    `sublayer_00`: signal_gain/{part}/forward and backward are means over the tokens, forward_max and backward_max
    maxima; log_row_max, log_row_min and log_column_error are extremes over them. signal_gain/depth_00 is the composite
    of the first sublayers up to that one; gradient_norm/sublayer_00 is that of the step before (sublayer and
    topology), stream_norm/sublayer_00/stream_0 the RMS of what the sublayer's topology read.

    Args:
        every_n_steps: k; step 0 and the last step are probed, too.
        probe_sequences: sequences in the batch.
        figures: draw gain by depth and heat maps of H_res for TensorBoard, when validation ends and at the end.

    Raises:
        ValueError: a count below 1.
    """

    def __init__(self, every_n_steps: int = 10, probe_sequences: int = 2, figures: bool = True) -> None:
        for name, count in (("every_n_steps", every_n_steps), ("probe_sequences", probe_sequences)):
            if count < 1:
                raise ValueError(f"signal_gain.{name} must be at least 1, got {count}")
        self.every_n_steps, self.probe_sequences, self.figures = every_n_steps, probe_sequences, figures
        self.listeners: list[Listener] = []
        #: composite gains of the last probe, and the largest so far as {forward,backward}_peak and their _max
        self.gains: dict[str, float] = {}
        self._step = self._drawn = -1
        self._batch: Any = None
        self._gradients: dict[str, Tensor] = {}
        self._pictured: tuple[list[float], list[float], list[Tensor | None]] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe the untrained model; a resumed run has been there."""
        for logger in _tensorboards(trainer):
            logger.experiment.add_custom_scalars(LAYOUT)
        if trainer.global_step == 0:
            self.probe(trainer, pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Keep the norms of the gradients that the step to be probed applies."""
        if self._is_due(trainer, trainer.global_step + 1):
            trunk = pl_module.trunk
            self._gradients = {
                f"gradient_norm/sublayer_{k:02d}": norm_of_gradients([*sublayer.parameters(), *topology.parameters()])
                for k, (sublayer, topology) in enumerate(zip(trunk.sublayers, trunk.topologies, strict=True))
            }

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Probe every k steps and after the last one."""
        if self._step != trainer.global_step and self._is_due(trainer, trainer.global_step):
            self.probe(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last probe."""
        if not trainer.sanity_checking:
            self._draw(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe the trained model, if its last step was not, and draw it."""
        if self._step != trainer.global_step:
            self.probe(trainer, pl_module)
        self._draw(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The last gains and their peaks."""
        return {"gains": dict(self.gains), "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take gains and peaks over from the run that is resumed."""
        self.gains, self._step = dict(state_dict["gains"]), state_dict["step"]

    def probe(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, log and tell the listeners (step, composite gains)."""
        if self._batch is None:
            batch = trainer.datamodule.probe_batch(self.probe_sequences)
            self._batch = move_data_to_device(batch, pl_module.device)
        mixings, values = self._observe(trainer, pl_module)
        parts = {f"signal_gain/sublayer_{k:02d}": mixing for k, mixing in enumerate(mixings)}
        depths = composites(mixings)
        for name, mixing in {**parts, "signal_gain/composite": depths[-1]}.items():
            values |= {f"{name}/{key}": value for key, value in _measure(mixing).items()}
        for k, mixing in enumerate(depths):
            for key in ("forward", "backward"):
                values[f"signal_gain/depth_{k:02d}/{key}"] = _measure(mixing)[key]
        metrics = _numbers(values | self._gradients)
        self._gradients, self._step = {}, trainer.global_step
        log_metrics(trainer, metrics, self._step)
        composite = {key: metrics[f"signal_gain/composite/{key}"] for key in IDENTITY}
        peaks = {f"{key}_peak": max(composite[key], self.gains.get(f"{key}_peak", 0.0)) for key in list(IDENTITY)[:4]}
        self.gains = composite | peaks
        by_depth = [
            [metrics[f"signal_gain/depth_{k:02d}/{key}"] for k in range(len(mixings))]
            for key in ("forward", "backward")
        ]
        mean = [None if mixing is None else mixing.flatten(0, -3).mean(0).float().cpu() for mixing in mixings]
        self._pictured = (*by_depth, mean)
        for listener in self.listeners:
            listener(self._step, self.gains)

    def _observe(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> tuple[list[Tensor | None], dict[str, Tensor | float]]:
        mixings: list[Tensor | None] = []
        norms: dict[str, Tensor | float] = {}

        def look(index: int, topology: ResidualTopology, state: Any, carry: Any) -> None:
            mixings.append(topology.mixing(carry))
            streams = topology.streams(state)
            if streams is not None:
                rms = streams.float().square().mean((0, 1, 3)).sqrt()
                norms.update({f"stream_norm/sublayer_{index:02d}/stream_{j}": value for j, value in enumerate(rms)})

        with undisturbed(pl_module), trainer.precision_plugin.forward_context():
            pl_module.probe(self._batch, look)
        return mixings, norms

    def _is_due(self, trainer: Trainer, step: int) -> bool:
        return step % self.every_n_steps == 0 or step == trainer.max_steps

    def _draw(self, trainer: Trainer) -> None:
        loggers = _tensorboards(trainer)
        if not self.figures or self._pictured is None or self._drawn == self._step or not loggers:
            return
        forward, backward, mixings = self._pictured
        pictures = {"signal_gain/by_depth": figures.gain_by_depth(forward, backward, self._step)}
        if any(mixing is not None for mixing in mixings):
            pictures["signal_gain/mixing"] = figures.mixing_heat_maps(mixings, self._step)
        for logger in loggers:
            for name, picture in pictures.items():
                logger.experiment.add_image(name, picture, self._step, dataformats="HWC")
        self._drawn = self._step


def _measure(mixing: Tensor | None) -> Mapping[str, Tensor | float]:
    """Gains of H [..., out, in]: means, maxima and extremes over its tokens."""
    if mixing is None:
        return IDENTITY
    forward, backward = forward_gain(mixing), backward_gain(mixing)
    row_max, row_min = log_row_extremes(mixing)
    return {
        "forward": forward.mean(),
        "backward": backward.mean(),
        "forward_max": forward.amax(),
        "backward_max": backward.amax(),
        "log_row_max": row_max.amax(),
        "log_row_min": row_min.amin(),
        "log_column_error": log_column_error(mixing).amax(),
    }


def _numbers(values: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Read all tensors at once: one wait for the device instead of hundreds."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    read = torch.stack([value.double() for value in tensors.values()]).tolist() if tensors else []
    return {**values, **dict(zip(tensors, read, strict=True))}  # type: ignore[dict-item]


def _tensorboards(trainer: Trainer) -> list[TensorBoardLogger]:
    if not trainer.is_global_zero:
        return []
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
