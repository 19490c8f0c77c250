"""Stages as files: the tiny ones run one after the other, and what cannot be is refused."""

from pathlib import Path

import pytest
import torch
from small_ocr import module, moved, node
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from encoders.ocr2 import OCR2
from mhc import build
from recipes.callbacks import run_record
from recipes.checks import check_sources
from recipes.cli import CLI, Resolved
from recipes.configuration import lookup, plain, read
from recipes.modules import OCR
from recipes.modules.hand_off import StartFrom

HOME = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(run_record, "environment", dict)
    monkeypatch.delattr(OCR, "budget")


def test_the_tiny_stages_run_one_after_the_other(tmp_path, monkeypatch):
    """The files themselves, each from what the one before has left, with fewer and smaller steps."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("each page of a book has some words on it and that is all " * 9)
    trees, after = [], []
    for number in (1, 2, 3):
        tree = read(HOME / "ablations" / f"ocr2_tiny_stage{number}.yaml").tree
        trees.append(plain(tree))
        small = {"size": 4, "batch_size": 2, "validation_batches": 1, "workers": 0}
        tree["data"]["init_args"] |= small | {"path": "words.txt", "cache": "cache"}
        folder = f"results/ocr2_tiny_stage{number}/base/seed-0"
        tree["trainer"] |= {"max_steps": 2, "default_root_dir": folder, "enable_progress_bar": False}
        tree.pop("ablation")
        resolved = Resolved(tree, where="test")
        check_sources(resolved)
        cli = CLI(resolved.tree)
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        again = OCR2.from_pretrained(f"{folder}/model")
        assert not moved(cli.model.network.state_dict(), again.state_dict())
        after.append(again.state_dict())
        events = EventAccumulator(folder, {"images": 0}).Reload()
        assert {"page_samples/0", "page_samples/1"} <= set(events.Tags()["images"])
    tokenizer = {name for name in after[0] if name.startswith("vision.tokenizer.")}
    assert all(torch.equal(after[0][name], after[1][name]) for name in tokenizer)
    assert {name.partition(".")[0] for name in moved(after[1], after[2])} == {"decoder"}
    parts = [lookup(tree, "model.network.init_args") for tree in trees]
    assert all(part[name] == parts[0][name] for part in parts for name in ("tokenizer", "encoder", "queries"))
    assert parts[1] == parts[2] != parts[0]
    pages = [{**tree["data"]["init_args"], "sequence_length": 0} for tree in trees]
    assert pages[0] == pages[1] == pages[2]


def test_patterns_that_name_nothing():
    with pytest.raises(ValueError, match=r"frozen names 'vison', .*; it has vision, .*decoder"):
        module(frozen=["vison"])
    with pytest.raises(ValueError, match=r"start_from\.parts names 'encoder'"):
        module(start_from=StartFrom("anywhere", ("encoder",)))
    with pytest.raises(ValueError, match=r"model\.learning_rates names 'vision\.tokenizer', under which nothing is"):
        module(frozen=["vision"], learning_rates={"vision.tokenizer": 1e-4})
    with pytest.raises(ValueError, match="frozen leaves nothing to train"):
        module(frozen=["*"])


def test_std_of_the_start():
    torch.manual_seed(0)
    made = module(build(node()), initial_std=0.25)
    for name in ("decoder.trunk.sublayers.1.gate", "vision.encoder.trunk.sublayers.0.query_key_value"):
        assert float(made.network.get_submodule(name).weight.detach().std()) == pytest.approx(0.25, rel=0.2)
    assert float(made.network.decoder.head.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    with pytest.raises(ValueError, match="initial_std above 0"):
        module(initial_std=0.0)
