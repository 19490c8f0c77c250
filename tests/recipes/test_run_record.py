"""What a run leaves in its folder."""

import json
import math
import subprocess
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recipes.callbacks import RunRecord, SignalGain
from recipes.checkpoint_io import AtomicCheckpointIO
from recipes.environment import environment
from recipes.files import replace_json
from tests.recipes.training import corpus, model, series, trainer


def status(folder):
    return json.loads((folder / "status.json").read_text())


def test_final_status(tmp_path):
    folder = tmp_path / "run"
    trainer(folder, 7).fit(model(), corpus(tmp_path))
    found = status(folder)
    assert found["status"] == "finished"
    assert (found["step"], found["steps"]) == (7, 7)
    assert found["tokens"] == 7 * found["tokens_per_step"] == 7 * 4 * 16
    assert found["step_ms_p10"] <= found["step_ms"] <= found["step_ms_p90"]
    assert found["tokens_per_s"] == pytest.approx(found["tokens"] / found["seconds"])
    assert found["peak_memory_mb"] > 50
    assert found["resumed_at"] == []
    # validated after step 5 by the interval, and after the last step in any case
    assert list(series(folder, "val/loss")) == [5, 7]
    assert found["val_loss"] == series(folder, "val/loss")[7]
    assert found["loss"] == series(folder, "train/loss")[7]
    assert found["gain_forward"] == series(folder, "signal_gain/composite/forward")[7]
    peak = max(series(folder, "signal_gain/composite/backward").values())
    assert found["gain_backward_max"] == peak


def test_rows_of_each_step(tmp_path):
    folder = tmp_path / "run"
    trainer(folder, 4).fit(model(), corpus(tmp_path))
    for name in ("loss", "tokens_per_second", "step_ms", "gradient_norm", "learning_rate"):
        assert list(series(folder, f"train/{name}")) == [1, 2, 3, 4]
    assert list(series(folder, "train/learning_rate").values())[:2] == pytest.approx([1.5e-3, 3e-3])


def test_time_of_a_step_is_the_steps_alone(tmp_path):
    import time

    class Slow(Callback):
        def on_train_batch_end(self, *_):
            time.sleep(0.1)

        def on_validation_end(self, *_):
            time.sleep(0.1)

    folder = tmp_path / "run"
    # the slow one comes first in the list
    trainer(folder, 5, callbacks=[Slow(), SignalGain(every_n_steps=1), RunRecord()]).fit(model(), corpus(tmp_path))
    assert status(folder)["step_ms"] < 100


def test_status_while_running(tmp_path):
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, *_):
            seen.append(status(tmp_path / "run"))

    trainer(tmp_path / "run", 3, callbacks=[RunRecord(status_every_seconds=0), Watch()]).fit(model(), corpus(tmp_path))
    assert [found["step"] for found in seen] == [1, 2, 3]
    assert {found["status"] for found in seen} == {"running"}
    assert all(math.isfinite(found["loss"]) and found["tokens_per_s"] > 0 for found in seen)


def test_status_is_throttled(tmp_path):
    seen = set()

    class Watch(Callback):
        def on_train_batch_end(self, trainer, *_):
            seen.add(status(tmp_path / "run")["updated"])

    trainer(tmp_path / "run", 5, callbacks=[RunRecord(status_every_seconds=60), Watch()]).fit(model(), corpus(tmp_path))
    assert len(seen) == 1


def test_failure_is_one_line(tmp_path):
    class Fail(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 2:
                raise RuntimeError("first line\nsecond line")

    with pytest.raises(RuntimeError, match="first line"):
        trainer(tmp_path / "run", 5, Fail()).fit(model(), corpus(tmp_path))
    assert status(tmp_path / "run")["status"] == "failed"
    assert status(tmp_path / "run")["error"] == "RuntimeError: first line"


def test_environment(tmp_path):
    trainer(tmp_path / "run", 1).fit(model(), corpus(tmp_path))
    found = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert found["packages"]["torch"] == torch.__version__
    assert found["hardware"]["cores"] >= 1
    assert found["threads"] == torch.get_num_threads()
    assert found["data"]["sha256"]


def test_environment_without_git(monkeypatch):
    def absent(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", absent)
    found = environment()
    assert found["commit"] is None
    assert found["dirty"] is None


def test_hyperparameters_have_final_metrics(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "cell.json").write_text(json.dumps({"axes": {"topology": "mhc"}}))
    logger = TensorBoardLogger(folder, name="", version="", default_hp_metric=False)
    trainer(folder, 3, logger=[logger]).fit(model(), corpus(tmp_path))
    events = EventAccumulator(str(folder)).Reload()
    assert events.Scalars("final/val_loss")[0].value == pytest.approx(status(folder)["val_loss"])
    assert not any("hp_metric" in tag for tag in events.Tags()["scalars"])
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_steps_between_rows(tmp_path):
    trainer(tmp_path / "run", 7, callbacks=[RunRecord(every_n_steps=3)]).fit(model(), corpus(tmp_path))
    assert list(series(tmp_path / "run", "train/loss")) == [3, 6, 7]


def test_checkpoints_are_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": 1}, path)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        AtomicCheckpointIO().save_checkpoint({"a": 2}, path)
    assert torch.load(path, weights_only=True) == {"a": 1}
    assert [found.name for found in path.parent.iterdir()] == ["last.ckpt"]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    replace_json(tmp_path / "a.json", {"a": math.nan, "b": [math.inf, 1.0], "c": {"d": -math.inf}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [None, 1.0], "c": {"d": None}}


def test_checkpoints_that_are_replaced_file_by_file_are_refused():
    fit = SimpleNamespace(strategy=ModelParallelStrategy(), callbacks=[])
    with pytest.raises(ValueError, match=r"save_distributed_checkpoint is true.*set it to false"):
        RunRecord().setup(fit, model(), "fit")
    fit.strategy = ModelParallelStrategy(save_distributed_checkpoint=False)
    RunRecord().setup(fit, model(), "fit")
    assert any(isinstance(callback, RunRecord) for callback in fit.callbacks)


def test_no_checkpoint_is_written_where_none_is_kept(tmp_path):
    folder = tmp_path / "run"
    fit = trainer(folder, 4)
    for callback in fit.checkpoint_callbacks:
        callback.save_top_k = 0
    fit.fit(model(), corpus(tmp_path))
    assert status(folder)["status"] == "finished"
    assert not list(folder.rglob("*.ckpt"))
