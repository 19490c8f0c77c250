"""The Lightning module: budget, optimizer, checkpoint, errors."""

from functools import partial

import pytest
import torch
from lightning.pytorch.cli import LightningCLI

from mhc import CausalLanguageModel, FeedForward, ManifoldHyperConnection
from recipes.data import TextCorpus
from recipes.modules import LanguageModel
from tests.recipes.training import corpus, model, trainer


def hand_counted_flops(width: int, depth: int, hidden: int, vocabulary: int, length: int) -> int:
    """Per token, forward: 2 per multiply-add of every matrix, attention over all `length` positions (q k and p v)."""
    block = 2 * (4 * width**2 + 2 * width * hidden) + 2 * 2 * length * width
    return depth * block + 2 * width * vocabulary


def test_flops_equal_the_hand_count():
    # the backward takes two products for each of the forward's; attention keeps its matrix, and recomputes nothing
    forward = hand_counted_flops(width=16, depth=2, hidden=32, vocabulary=256, length=32)
    assert model("residual").budget(32).flops_per_token == 3 * forward


def test_parameters_count_a_tied_weight_once():
    tied, untied = model("residual").budget(8), model("residual", tied=False).budget(8)
    assert untied.parameters - tied.parameters == 256 * 16
    assert tied.parameters == sum(p.numel() for p in model("residual").parameters())


@pytest.mark.parametrize("topology", ["residual", "hc", "mhc"])
def test_budget_leaves_model_and_random_state_alone(topology):
    module = model(topology)
    before = torch.get_rng_state()
    budget = module.budget(16)
    assert torch.equal(before, torch.get_rng_state())
    assert next(module.parameters()).device.type == "cpu"
    assert budget.parameters == sum(p.numel() for p in module.parameters())


def test_weight_decay_is_the_optimizers_own():
    module = model("hc")
    decaying, others = module.configure_optimizers()["optimizer"].param_groups
    assert decaying["weight_decay"] == 0.1
    assert others["weight_decay"] == 0.0
    assert any(p is module.network.embedding.weight for p in others["params"])
    assert any(p is module.network.trunk.topologies[0].static_alpha for p in others["params"])


def test_schedule_steps_with_the_optimizer():
    configured = model().configure_optimizers()
    assert set(configured) == {"optimizer", "lr_scheduler"}
    assert configured["lr_scheduler"]["interval"] == "step"
    assert isinstance(model(lr_scheduler=None).configure_optimizers(), torch.optim.AdamW)


def test_probe_shows_every_sublayer():
    module, seen = model("mhc"), []
    tokens = torch.randint(256, (2, 8))
    logits = module.probe((tokens, tokens), lambda index, topology, state, carry: seen.append(index))
    assert seen == [0, 1, 2, 3]
    assert torch.equal(logits, module(tokens))


def test_vocabulary_larger_than_the_model(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match=r"model\.vocabulary_size is 100 but data\.vocabulary has 256"):
        trainer(folder, 1).fit(model(vocabulary_size=100), corpus(tmp_path))
    assert not (folder / "status.json").exists()


def test_a_part_that_refuses():
    with pytest.raises(ValueError, match="heads"):
        model(width=15)


def test_checkpoint_loads_weights_only(tmp_path):
    module = model("mhc")
    trainer(tmp_path, 2).fit(module, corpus(tmp_path))
    path = tmp_path / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    assert saved["global_step"] == 2
    plain = {"vocabulary_size": 256, "width": 16, "depth": 2, "tied": True, "recompute": None}
    assert saved["hyper_parameters"] == plain
    live = {
        name: module.hparams[name] for name in ("topology", "attention", "feed_forward", "optimizer", "lr_scheduler")
    }
    loaded = type(module).load_from_checkpoint(path, weights_only=True, **live)
    tokens = torch.randint(256, (1, 8))
    assert torch.equal(loaded(tokens), module(tokens))


def test_checkpoint_of_the_command_line_builds_the_model_again(tmp_path):
    corpus(tmp_path)
    parts = {
        "topology": {"class_path": "mhc.ManifoldHyperConnection", "init_args": {"streams": 2}},
        "attention": {"class_path": "mhc.Attention", "init_args": {"heads": 2}},
        "feed_forward": {"class_path": "mhc.FeedForward", "init_args": {"hidden": 32}},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003}},
        "lr_scheduler": {
            "class_path": "recipes.schedules.WarmupCosine",
            "init_args": {"warmup_steps": 1, "steps": 2},
        },
    }
    data = {"path": str(tmp_path / "corpus.txt"), "sequence_length": 16, "split_blocks": 2}
    arguments = {
        "model": {
            "class_path": "recipes.modules.LanguageModel",
            "init_args": {"vocabulary_size": 256, "width": 16, "depth": 1, **parts},
        },
        "data": {"class_path": "recipes.data.TextCorpus", "init_args": data},
        "trainer": {"max_steps": 2, "accelerator": "cpu", "default_root_dir": str(tmp_path), "logger": False},
    }
    cli = LightningCLI(run=False, args=arguments, subclass_mode_model=True, subclass_mode_data=True)
    cli.trainer.fit(cli.model, cli.datamodule)
    cli.trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = LanguageModel.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    tokens = torch.randint(256, (1, 8))
    assert isinstance(again.network.trunk.topologies[0], ManifoldHyperConnection)
    assert torch.equal(again(tokens), cli.model(tokens))


def test_network_is_the_causal_language_model():
    module = model(feed_forward=partial(FeedForward, hidden=24))
    assert isinstance(module.network, CausalLanguageModel)
    assert isinstance(TextCorpus().vocabulary.size, int)
