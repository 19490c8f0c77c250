"""A run that diverges ends before it is applied, as a result."""

import json
import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback

from recipes.callbacks import DivergedError, DivergenceGuard, RunRecord, SignalGain, divergence_guard
from tests.recipes.training import corpus, model, series, trainer


class Poison(Callback):
    """Make the loss or one gradient of a step not finite."""

    def __init__(self, what: str, step: int, value: float = math.nan) -> None:
        self.what, self.step, self.value = what, step, value

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.what == "loss" and trainer.global_step == self.step:
            with torch.no_grad():
                pl_module.network.norm.weight[0] = self.value

    def on_after_backward(self, trainer, pl_module):
        if self.what == "gradient" and trainer.global_step == self.step:
            pl_module.network.norm.weight.grad[0] = self.value


def diverge(folder, *callbacks):
    module = model("hc")
    with pytest.raises(DivergedError) as caught:
        trainer(folder, 8, callbacks=[RunRecord(), *callbacks]).fit(module, corpus(folder.parent))
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "diverged"
    assert status["reason"] == caught.value.reason
    return module, status


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_is_not_finite(tmp_path, value):
    _, status = diverge(tmp_path / "run", Poison("loss", 3, value), DivergenceGuard())
    assert status["reason"] == "the loss is nan at step 4"
    assert status["step"] == 3
    assert list(series(tmp_path / "run", "train/loss")) == [1, 2, 3]
    assert status["params"] > 0
    assert status["step_ms"] > 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradient_is_not_finite_and_not_applied(tmp_path, value):
    module, status = diverge(tmp_path / "run", Poison("gradient", 2, value), DivergenceGuard())
    assert "the gradient norm is" in status["reason"]
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


@pytest.mark.parametrize("first", [True, False])
def test_gain_over_the_threshold(tmp_path, first):
    class Amplify(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 3:
                with torch.no_grad():
                    pl_module.network.trunk.topologies[1].static_alpha *= 50

    guard, probe = DivergenceGuard(max_gain=10), SignalGain(every_n_steps=2)
    callbacks = [guard, probe] if first else [probe, guard]
    _, status = diverge(tmp_path / "run", Amplify(), *callbacks)
    assert "composite gain is" in status["reason"]
    assert status["reason"].endswith("above 10, at step 4")
    assert status["gain_forward_max"] > 10
    assert series(tmp_path / "run", "signal_gain/composite/forward")[4] > 10


def test_threshold_needs_a_probe(tmp_path):
    with pytest.raises(ValueError, match="needs the SignalGain callback"):
        trainer(tmp_path / "run", 2, callbacks=[DivergenceGuard(max_gain=5)]).fit(model(), corpus(tmp_path))


def test_refuses():
    with pytest.raises(ValueError, match=r"divergence_guard\.max_gain"):
        DivergenceGuard(max_gain=0.5)


@pytest.mark.parametrize("scaler", [None, object()])
def test_a_loss_scaler_deals_with_infinite_gradients_itself(monkeypatch, scaler):
    monkeypatch.setattr(divergence_guard, "gradient_norm", lambda *_: torch.tensor(torch.inf))
    trainer = SimpleNamespace(
        precision_plugin=SimpleNamespace(scaler=scaler),
        strategy=SimpleNamespace(reduce_boolean_decision=lambda decision: decision),
        global_step=0,
    )
    guard = DivergenceGuard()
    guard.on_before_backward(trainer, None, torch.tensor(1.0))
    with pytest.raises(DivergedError, match="gradient norm") if scaler is None else nullcontext():
        guard.on_before_optimizer_step(trainer, None, None)
    guard.on_before_backward(trainer, None, torch.tensor(torch.nan))
    with pytest.raises(DivergedError, match="the loss is nan"):
        guard.on_before_optimizer_step(trainer, None, None)
