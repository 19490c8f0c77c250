"""Compiled sublayers train as the others do, from a configuration, and leave names and probes as they are."""

import pytest
import torch
from lightning.pytorch import LightningModule
from small_ocr import OCR, write_pages
from torch._dynamo.testing import CompileCounterWithBackend
from training import corpus, model, rows, series, trainer

from recipes.callbacks import CompiledSublayers, run_record
from recipes.cli import CLI
from recipes.configuration import parse_yaml

METRICS = ("train/loss", "val/loss", "signal_gain/composite/backward", "train/gradient_norm")


@pytest.fixture(params=["eager"])
def graphs(request, monkeypatch):
    """Counts graphs and lets a small backend stand for Inductor, which takes a minute; AOT Autograd half of one."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(request.param)
    compile = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **given: compile(self, **given | {"backend": counter}))
    yield counter
    torch._dynamo.reset()


@pytest.mark.parametrize(("depth", "graphs"), [(2, "aot_eager"), (6, "eager")], indirect=["graphs"])
def test_trains_the_same_on_as_many_graphs_at_any_depth(tmp_path, graphs, depth):
    ran = {}
    for name, callbacks in (("eager", []), ("compiled", [CompiledSublayers()])):
        fit = trainer(tmp_path / name, 6, *callbacks)
        fit.fit(model(depth=depth), datamodule=corpus(tmp_path))
        ran[name] = {metric: series(tmp_path / name, metric) for metric in METRICS}
        assert bool(graphs.frame_count) == (name == "compiled")
    assert len(ran["eager"]["train/loss"]) == 6
    for metric in METRICS:
        assert ran["compiled"][metric] == pytest.approx(ran["eager"][metric], rel=1e-4)
    # attention and feed-forward, each for training and validation, and attention's tables of rotations
    assert graphs.frame_count <= 8


@pytest.mark.filterwarnings("ignore:.*self.log.*")
def test_trains_what_reads_pages(tmp_path, monkeypatch, graphs):
    """Views of two sizes go through the same sublayers, and some pages have no crops."""
    monkeypatch.setattr(run_record, "environment", dict)
    monkeypatch.chdir(tmp_path)
    write_pages(tmp_path)
    losses = []
    for callbacks in ([], [{"class_path": "recipes.callbacks.CompiledSublayers"}]):
        tree = parse_yaml(OCR)
        tree["trainer"] |= {
            "limit_train_batches": 1,
            # validation has graphs of its own, which the language model has shown
            "limit_val_batches": 0,
            "callbacks": callbacks,
            "default_root_dir": f"run-{len(callbacks)}",
        }
        cli = CLI(tree)
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        losses.append(float(cli.trainer.callback_metrics["train/loss"]))
    assert graphs.frame_count
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_names_in_checkpoints_stay(tmp_path, graphs):
    plain, compiled = model(), model()
    trainer(tmp_path, 2, CompiledSublayers()).fit(compiled, datamodule=corpus(tmp_path))
    assert set(compiled.state_dict()) == set(plain.state_dict())
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    plain.load_state_dict(saved)
    assert rows(tmp_path)


def test_is_done_once(graphs):
    network, callback = model(), CompiledSublayers()
    callback.setup(None, network, "fit")
    first = [sublayer._compiled_call_impl for sublayer in network.trunk.sublayers]
    callback.setup(None, network, "validate")
    assert None not in first
    assert [sublayer._compiled_call_impl for sublayer in network.trunk.sublayers] == first


def test_complains_in_a_sentence():
    with pytest.raises(ValueError, match=r"backend must be one of .*inductor.*, got 'induktor'"):
        CompiledSublayers(backend="induktor")
    with pytest.raises(ValueError, match="LightningModule has no trunk"):
        CompiledSublayers().setup(None, LightningModule(), "fit")
