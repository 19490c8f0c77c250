"""Measurements that several callbacks share."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

_norms: WeakKeyDictionary[LightningModule, tuple[tuple[int, int], Tensor]] = WeakKeyDictionary()


def log_metrics(trainer: Trainer, metrics: Mapping[str, float], step: int) -> None:
    """Give metrics to all loggers; `step` counts finished optimizer steps."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.log_metrics(dict(metrics), step)


def norm_of_gradients(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The 2-norm of all gradients together, a scalar; sharded ones are gathered."""
    parameters = list(parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros((), device=parameters[0].device if parameters else None)
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def gradient_norm(trainer: Trainer, module: LightningModule) -> Tensor:
    """`norm_of_gradients` of a module before its optimizer step, computed once however many ask."""
    now = (trainer.global_step, trainer.fit_loop.total_batch_idx)
    if module not in _norms or _norms[module][0] != now:
        _norms[module] = now, norm_of_gradients(module.parameters())
    return _norms[module][1]


def data_processes(trainer: Trainer) -> int:
    """How many processes see different data."""
    kwargs = trainer.distributed_sampler_kwargs
    return kwargs["num_replicas"] if kwargs else 1


def validation_is_due(trainer: Trainer) -> bool:
    """Whether Lightning would validate after the batch that was trained last."""
    loop = trainer.fit_loop
    return bool(trainer.num_val_batches) and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def validate(trainer: Trainer) -> None:
    """Run the validation loop now, as Lightning does between two batches."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    connector = trainer._logger_connector
    first, stage = connector._first_loop_iter, trainer.state.stage
    trainer.validating = True
    # a restarted loop would count the batches of the run before
    loop.restarting = False
    loop.run()
    trainer.state.stage = stage
    connector._first_loop_iter = first


@contextlib.contextmanager
def undisturbed(module: LightningModule) -> Iterator[None]:
    """Evaluation mode, no gradients, no compiled code; modes and random states are put back."""
    modes = {part: part.training for part in module.modules()}
    devices = [module.device] if module.device.type == "cuda" else []
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode
