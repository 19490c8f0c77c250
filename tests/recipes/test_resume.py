"""A run that stopped goes on at the exact sample, and its files look as if it had not."""

import json
import os
import signal

import pytest
import torch
from lightning.pytorch import Callback

from recipes.callbacks import Interrupted
from recipes.modules import LanguageModel
from tests.recipes.training import corpus, model, rows, series, trainer

TIMES = {"train/step_ms", "train/tokens_per_second"}


class Stop(Callback):
    """End the process's run at a place, as a kill does, or tell it to end, as Ctrl-C does."""

    def __init__(self, step: int, hook: str = "on_train_batch_end", number: int | None = None) -> None:
        self.step, self.number = step, number
        setattr(self, hook, self.stop)

    def stop(self, trainer, *_):
        if trainer.global_step == self.step:
            if self.number is None:
                raise SystemExit("killed")
            os.kill(os.getpid(), self.number)


@pytest.fixture(autouse=True)
def no_budget(monkeypatch):
    # counting FLOPs takes longer than these runs
    monkeypatch.delattr(LanguageModel, "budget")


def curve(folder):
    """Every row but the times, in the order of steps; none may be there twice."""
    found = [(step, name, value) for step, name, value in rows(folder) if name not in TIMES]
    assert len({(step, name) for step, name, _ in found}) == len(found)
    return sorted(found)


def status(folder):
    return json.loads((folder / "status.json").read_text())


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def resume(folder, data, topology="mhc", **changes):
    path = folder / "checkpoints" / "last.ckpt"
    # another model's draws must not matter
    torch.manual_seed(123)
    trainer(folder, 10, **changes).fit(
        model(topology, seed=9), data, ckpt_path=path if path.exists() else None, weights_only=True
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    data = {"stride": 16, "batch_size": 4, "sequence_length": 256, "validation_fraction": 0.4, "split_blocks": 2}
    trainer(folder / "run", 10).fit(model(), corpus(folder, **data))
    assert 2 <= len(corpus(folder, **data).train_dataloader()) <= 400
    return folder, data


def check(whole, folder):
    data_folder, _ = whole
    assert curve(folder) == curve(data_folder / "run")
    assert status(folder)["status"] == "finished"
    expected, found = weights(data_folder / "run"), weights(folder)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("stop", [1, 4, 5, 9])
def test_killed_after_a_step(whole, tmp_path, stop):
    folder, changes = whole
    with pytest.raises(SystemExit):
        trainer(tmp_path / "run", 10, Stop(stop)).fit(model(), corpus(folder, **changes))
    # checkpoints come every 2 steps: an odd step, or one killed before its checkpoint, is trained again
    if not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
        trainer(tmp_path / "run", 10).fit(model(), corpus(folder, **changes))
    else:
        resume(tmp_path / "run", corpus(folder, **changes))
    check(whole, tmp_path / "run")


@pytest.mark.parametrize("every", [1, 5])
def test_killed_between_checkpoint_and_validation(whole, tmp_path, every):
    folder, changes = whole
    with pytest.raises(SystemExit):
        trainer(tmp_path / "run", 10, Stop(5, "on_validation_start"), every=every).fit(
            model(), corpus(folder, **changes)
        )
    assert 5 not in series(tmp_path / "run", "val/loss")
    resume(tmp_path / "run", corpus(folder, **changes), every=every)
    assert status(tmp_path / "run")["resumed_at"] == [5]
    check(whole, tmp_path / "run")


def test_killed_after_validation(whole, tmp_path):
    folder, changes = whole
    with pytest.raises(SystemExit):
        trainer(tmp_path / "run", 10, Stop(6), every=5).fit(model(), corpus(folder, **changes))
    resume(tmp_path / "run", corpus(folder, **changes), every=5)
    check(whole, tmp_path / "run")


def test_killed_in_the_last_validation(whole, tmp_path):
    folder, changes = whole
    with pytest.raises(SystemExit):
        trainer(tmp_path / "run", 10, Stop(10, "on_validation_start")).fit(model(), corpus(folder, **changes))
    resume(tmp_path / "run", corpus(folder, **changes))
    check(whole, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stop", [3, 5])
def test_interrupted(whole, tmp_path, number, stop):
    folder, changes = whole
    handler = signal.getsignal(number)
    # the signal comes in the middle of step `stop`
    halt = Stop(stop - 1, "on_after_backward", number)
    with pytest.raises(Interrupted, match=f"after step {stop}"):
        trainer(tmp_path / "run", 10, halt, every=100).fit(model(), corpus(folder, **changes))
    assert signal.getsignal(number) == handler
    assert status(tmp_path / "run")["status"] == "interrupted"
    assert status(tmp_path / "run")["step"] == stop
    resume(tmp_path / "run", corpus(folder, **changes), every=100)
    assert status(tmp_path / "run")["resumed_at"] == [stop]
    check(whole, tmp_path / "run")


def test_a_second_interrupt_does_not_wait(whole, tmp_path):
    folder, changes = whole

    class Impatient(Callback):
        def on_after_backward(self, trainer, pl_module):
            if trainer.global_step == 2:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(SystemExit):
        trainer(tmp_path / "run", 10, Impatient()).fit(model(), corpus(folder, **changes))
    assert status(tmp_path / "run")["status"] == "interrupted"
    resume(tmp_path / "run", corpus(folder, **changes))
    check(whole, tmp_path / "run")


def test_resume_across_epochs(tmp_path):
    small = {"batch_size": 4, "stride": 600, "sequence_length": 64, "validation_fraction": 0.3, "split_blocks": 1}
    data = corpus(tmp_path, **small)
    epoch = len(data.train_dataloader())
    assert epoch in (3, 4, 5)
    trainer(tmp_path / "whole", 10).fit(model("residual"), data)
    for stop in range(1, 10):
        run = tmp_path / f"run-{stop}"
        halt = Stop(stop - 1, "on_after_backward", signal.SIGTERM)
        with pytest.raises(Interrupted):
            trainer(run, 10, halt, every=100).fit(model("residual"), corpus(tmp_path, **small))
        resume(run, corpus(tmp_path, **small), topology="residual", every=100)
        assert curve(run) == curve(tmp_path / "whole"), f"stopped at {stop} of epochs of {epoch}"


def test_gradient_accumulation_sees_the_same_sequences(whole, tmp_path):
    folder, changes = whole
    trainer(tmp_path / "run", 4, accumulate_grad_batches=2).fit(model(), corpus(folder, **changes))
    alone, accumulated = series(folder / "run", "train/loss"), series(tmp_path / "run", "train/loss")
    assert list(accumulated) == [1, 2, 3, 4]
    for step, loss in accumulated.items():
        assert loss == pytest.approx(alone[step], rel=1e-5)


def test_same_data_for_every_model(whole, tmp_path):
    folder, changes = whole
    seen = {}

    class Watch(Callback):
        def __init__(self, name):
            self.name = name

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.setdefault(self.name, []).append(batch[0].clone())

    for topology in ("residual", "hc", "mhc"):
        trainer(tmp_path / topology, 3, Watch(topology)).fit(model(topology), corpus(folder, **changes))
    assert torch.equal(torch.stack(seen["residual"]), torch.stack(seen["hc"]))
    assert torch.equal(torch.stack(seen["residual"]), torch.stack(seen["mhc"]))


def test_a_run_killed_after_its_last_step_keeps_times_and_memory(tmp_path):
    data = corpus(tmp_path / "data")
    folder = tmp_path / "run"
    with pytest.raises(SystemExit):
        trainer(folder, 10, Stop(10, "on_validation_start")).fit(model(), data)
    stored = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]["RunRecord"]
    assert len(stored["step_ms"]) == 10
    assert stored["peak_memory_mb"] > 50
    resume(folder, corpus(tmp_path / "data"))
    found = status(folder)
    assert found["status"] == "finished"
    assert found["step_ms"] == pytest.approx(float(stored["step_ms"].double().median()), rel=0.5)
    assert found["step_ms_p10"] <= found["step_ms"] <= found["step_ms_p90"]
    assert found["peak_memory_mb"] >= stored["peak_memory_mb"]
