"""Adapters on parts of the model: what they reach, what trains, and the released layout of what is written."""

import importlib.util
from functools import partial

import pytest
import torch
from helpers import randomise, relative_error
from test_ocr_module import batch
from test_stages import home, module, node, quick, state, train  # noqa: F401  fixtures

from encoders.names import released_names
from encoders.ocr2 import OCR2
from mhc import build, describe
from recipes.callbacks import ModelFolder
from recipes.modules import OCR
from recipes.modules.hand_off import StartFrom
from recipes.modules.lora import LoRA, linear_layers

pytest.importorskip("peft")

ADAPTERS = LoRA(("decoder",), rank=2, alpha=6.0)


def adapted(**changes) -> OCR:
    made = module(**({"frozen": ["vision"], "lora": ADAPTERS} | changes))
    made.configure_model()
    return made


def test_it_starts_as_the_model_was_and_adds_its_product():
    made, plain, one = adapted(), module(), batch()
    assert torch.equal(made(one.tokens, one.images), plain(one.tokens, one.images))
    layers = [name for name, part in made.network.named_modules() if hasattr(part, "lora_A")]
    assert layers == linear_layers(plain.network, ["decoder"])
    randomise_adapters(made)
    for name in layers:
        layer, before = made.network.get_submodule(name), plain.network.get_submodule(name)
        product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        with torch.no_grad():
            before.weight += 6.0 / 2 * product
    assert relative_error(made(one.tokens, one.images), plain(one.tokens, one.images)) < 1e-5


def randomise_adapters(made):
    torch.manual_seed(8)
    for name, parameter in made.network.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)


def test_it_reaches_linear_layers_and_says_what_it_does_not():
    network = module().network
    assert linear_layers(network, ["decoder"]) == [
        *(f"decoder.trunk.sublayers.0.{name}" for name in ("query_key_value", "output")),
        *(f"decoder.trunk.sublayers.1.{name}" for name in ("gate", "up", "down")),
        *(f"decoder.trunk.sublayers.2.{name}" for name in ("query_key_value", "output")),
        *(f"decoder.trunk.sublayers.3.shared_{name}" for name in ("gate", "up", "down")),
        "decoder.head",
    ]
    for pattern in ("decoder.trunk.sublayers.3.gate_up", "decoder.trunk.sublayers.3.router", "vision.queries"):
        with pytest.raises(ValueError, match=r"lora\.parts names '.*', where there is no linear layer: routed experts"):
            module(lora=LoRA((pattern,)))


@pytest.mark.parametrize(
    ("frozen", "full"),
    [
        (["*"], set()),
        (["vision"], {"decoder.embedding.weight", "decoder.trunk.sublayers.3.gate_up"}),
        (["decoder"], {"vision.queries.banks.64", "vision.projector.weight"}),
    ],
)
def test_what_trains(frozen, full):
    """Adapters always, the weights under them never, and the rest as `frozen` says."""
    made = adapted(frozen=frozen)
    trained = {name for name, parameter in made.network.named_parameters() if parameter.requires_grad}
    adapters = {name for name, _ in made.network.named_parameters() if "lora_" in name}
    under = {name for name, _ in made.network.named_parameters() if ".base_layer." in name}
    plain = module(frozen=frozen, lora=ADAPTERS)
    wanted = {name for name, parameter in plain.network.named_parameters() if parameter.requires_grad}
    assert trained == adapters | (wanted - {name.replace(".base_layer.", ".") for name in under})
    assert adapters
    assert full <= trained
    made.configure_model()
    assert {name for name, _ in made.network.named_parameters() if "lora_" in name} == adapters


def test_an_adapters_dropout_acts_in_a_frozen_part():
    made = adapted(lora=LoRA(("decoder",), rank=2, dropout=0.5), frozen=["*"])
    drops = [part for part in made.network.modules() if isinstance(part, torch.nn.Dropout)]
    assert drops
    assert all(part.training for part in drops)
    assert not made.network.decoder.norm.training
    assert not any(part.training for part in made.eval().network.modules())


def test_what_is_written_has_the_released_layout(home, tmp_path):  # noqa: F811
    plain = module()
    plain.network.save_pretrained(tmp_path / "start")
    made = module(
        build(node()),
        frozen=["vision"],
        lora=ADAPTERS,
        start_from=StartFrom(str(tmp_path / "start")),
        learning_rates={},
    )
    train(home, tmp_path / "run", made, 3, ModelFolder())
    again = OCR2.from_pretrained(tmp_path / "run" / "model")
    assert describe(again) == node() or describe(again) == describe(plain.network)
    assert set(released_names(again)) == set(released_names(plain.network))
    one = batch()
    assert relative_error(again(one.tokens, one.images), made.eval()(one.tokens, one.images)) < 1e-5
    before, after = plain.network.state_dict(), again.state_dict()
    names = {f"{name}.weight" for name in linear_layers(plain.network, ["decoder"])}
    for name in names:
        change = torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3)
        assert 1 <= int(change) <= 2, name
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("vision."))


def test_a_run_with_adapters_goes_on_as_if_it_had_not_stopped(home, tmp_path):  # noqa: F811
    def made():
        return module(frozen=["vision"], lora=ADAPTERS)

    whole = made()
    train(home, tmp_path / "whole", whole, 4, until=2)
    train(home, tmp_path / "half", made(), 2, until=2)
    again = made()
    train(home, tmp_path / "half", again, 4, until=2, checkpoint=tmp_path / "half" / "checkpoints" / "last.ckpt")
    wanted, found = state(whole.network), state(again.network)
    assert wanted.keys() == found.keys()
    assert any("lora_" in name for name in wanted)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_a_checkpoint_with_adapters_is_loaded_but_not_handed_on(home, tmp_path):  # noqa: F811
    train(home, tmp_path / "run", module(frozen=["vision"], lora=ADAPTERS), 1)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    optimizer = partial(torch.optim.AdamW, lr=1e-3)
    network = randomise(build(node()), 0.1)
    again = OCR.load_from_checkpoint(path, network=network, optimizer=optimizer, lora=ADAPTERS, weights_only=True)
    assert any("lora_" in name for name in again.network.state_dict())
    with pytest.raises(ValueError, match="has adapters, not merged: give the model's folder"):
        module(start_from=StartFrom(str(path))).check_sources()


def test_budget_counts_what_runs(monkeypatch):
    monkeypatch.undo()
    from encoders.views import Views

    views = Views(global_size=64, crop_size=32, max_crops=2)
    full, frozen = module().budget(64, views), module(frozen=["vision"]).budget(64, views)
    small = module(frozen=["*"], lora=ADAPTERS).budget(64, views)
    assert frozen.parameters == full.parameters
    assert small.flops_per_token < full.flops_per_token
    assert frozen.flops_per_token < 0.75 * full.flops_per_token


def test_without_peft(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="lora needs the package peft: install it"):
        LoRA(("decoder",))


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}])
def test_numbers(wrong):
    with pytest.raises(ValueError, match=r"lora\.rank must be at least 1"):
        LoRA(("decoder",), **wrong)
