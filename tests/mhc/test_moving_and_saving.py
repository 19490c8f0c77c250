"""Topologies and models on the meta device, in state dicts, copies and compiled graphs."""

import copy
import pickle

import pytest
import torch
from helpers import randomise, relative_error
from models import TOPOLOGIES, language_model, tokens

from mhc import HyperConnection, ManifoldHyperConnection


@pytest.mark.parametrize("kind", TOPOLOGIES)
def test_a_model_runs_forward_and_backward_on_the_meta_device(kind):
    with torch.device("meta"):
        built = language_model(TOPOLOGIES[kind])
        inputs = torch.zeros(2, 5, dtype=torch.int64)
    for model in (built, language_model(TOPOLOGIES[kind]).to("meta")):
        assert all(parameter.is_meta for parameter in model.parameters())
        logits = model(inputs)
        assert logits.is_meta
        assert logits.shape == (2, 5, 23)
        logits.sum().backward()
        assert all(parameter.grad.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("kind", TOPOLOGIES)
def test_storage_comes_back_by_to_empty_and_a_state_dict(kind):
    source = randomise(language_model(TOPOLOGIES[kind]), 0.1)
    model = language_model(TOPOLOGIES[kind]).to("meta").to_empty(device="cpu")
    model.load_state_dict(source.state_dict())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model(tokens()), source(tokens()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", TOPOLOGIES)
def test_a_state_dict_round_trip_changes_nothing(kind, dtype, tmp_path):
    source = randomise(language_model(TOPOLOGIES[kind]), 0.1).to(dtype)
    torch.save(source.state_dict(), tmp_path / "model.pt")
    model = language_model(TOPOLOGIES[kind], seed=1).to(dtype)
    assert not torch.equal(model(tokens()), source(tokens()))
    model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(model(tokens()), source(tokens()))


def test_names_of_parameters_are_part_of_the_interface():
    # checkpoints depend on them
    assert list(ManifoldHyperConnection(4).state_dict()) == ["phi", "alpha", "bias"]
    assert set(HyperConnection(4).state_dict()) == {
        "static_alpha",
        "static_beta",
        "dynamic_alpha",
        "dynamic_beta",
        "alpha_scale",
        "beta_scale",
        "norm.weight",
        "norm.bias",
    }
    assert set(HyperConnection(4, dynamic=False).state_dict()) == {"static_alpha", "static_beta"}


def test_scales_that_were_saved_without_a_dimension():
    source, found = (randomise(HyperConnection(4)) for _ in range(2))
    held = {name: weight.squeeze() if "scale" in name else weight for name, weight in source.state_dict().items()}
    assert {weight.dim() for name, weight in held.items() if "scale" in name} == {0}
    found.load_state_dict(held)
    assert all(torch.equal(found.state_dict()[name], weight) for name, weight in source.state_dict().items())


@pytest.mark.parametrize("kind", TOPOLOGIES)
def test_copies_and_pickles_are_independent(kind):
    model = randomise(language_model(TOPOLOGIES[kind]), 0.1)
    expected = model(tokens())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(tokens()), expected)
        randomise(twin, 0.1)
        assert torch.equal(model(tokens()), expected)


@pytest.mark.parametrize("kind", ["mhc", "hc"])
def test_a_trunk_compiles_as_one_graph(kind):
    trunk = randomise(language_model(TOPOLOGIES[kind], depth=1), 0.1).trunk
    x = torch.randn(2, 3, 16)
    compiled = torch.compile(trunk, fullgraph=True, backend="aot_eager")
    assert relative_error(compiled(x), trunk(x)) < 1e-5


@pytest.mark.parametrize("kind", ["mhc", "hc"])
def test_checkpointed_sublayers_have_the_same_gradients(kind):
    topology = randomise(TOPOLOGIES[kind](8, 0), 0.3)
    state = torch.randn(2, 3, 4, 8)
    upstream = torch.randn_like(state)
    plain = torch.autograd.grad(topology(state, torch.tanh), list(topology.parameters()), upstream)
    result = torch.utils.checkpoint.checkpoint(topology, state, torch.tanh, use_reentrant=False)
    again = torch.autograd.grad(result, list(topology.parameters()), upstream)
    assert all(relative_error(a, b) < 1e-6 for a, b in zip(again, plain, strict=True))
