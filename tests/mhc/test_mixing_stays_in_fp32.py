"""Parameters and coefficients of a topology stay fp32 whatever the model around them is cast to."""

import copy

import pytest
import torch
from helpers import randomise, relative_error
from models import language_model, tokens
from torch import nn

from mhc import (
    HyperConnection,
    KroneckerHyperConnection,
    ManifoldHyperConnection,
    PermutationHyperConnection,
    RMSNorm,
)

FACTORIES = {
    "mhc": ManifoldHyperConnection,
    "mhc lite": PermutationHyperConnection,
    "kromhc": KroneckerHyperConnection,
    "hc": HyperConnection,
    "hc with RMSNorm": lambda width, index=0: HyperConnection(width, index, norm=RMSNorm),
    "hc static": lambda width, index=0: HyperConnection(width, index, dynamic=False),
}
CASTS = {
    "to(bfloat16)": lambda module: module.to(torch.bfloat16),
    "bfloat16()": lambda module: module.bfloat16(),
    "half()": lambda module: module.half(),
    "to(device, dtype)": lambda module: module.to("cpu", torch.bfloat16),
    "twice": lambda module: module.half().bfloat16(),
}


def dtypes(module: nn.Module) -> set[torch.dtype]:
    return {tensor.dtype for tensor in module.state_dict().values()}


@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("factory", FACTORIES)
def test_parameters_stay_fp32_and_exact_in_a_model_that_is_cast(factory, cast):
    model = randomise(language_model(FACTORIES[factory]), 0.1)
    before = copy.deepcopy(model.trunk.topologies.state_dict())
    CASTS[cast](model)
    assert dtypes(model.trunk.topologies) == {torch.float32}
    assert model.embedding.weight.dtype != torch.float32
    assert torch.float32 not in dtypes(model.trunk.sublayers)
    for name, tensor in model.trunk.topologies.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert torch.isfinite(model(tokens())).all()


@pytest.mark.parametrize("factory", FACTORIES)
def test_double_promotes_and_float_comes_back(factory):
    topology = FACTORIES[factory](8)
    assert dtypes(topology.double()) == {torch.float64}
    assert dtypes(topology.bfloat16()) == {torch.float64}  # a cast to less than fp32 is no cast
    assert dtypes(topology.float()) == {torch.float32}


@pytest.mark.parametrize("factory", FACTORIES)
def test_coefficients_of_a_bf16_state_are_those_of_fp32(factory):
    topology = randomise(FACTORIES[factory](16), 0.5)
    state = torch.randn(2, 7, 4, 16).bfloat16()
    _, expected = topology.aggregate(state.float())
    low = copy.deepcopy(topology).to(torch.bfloat16)
    z, carry = low.aggregate(state)
    with torch.autocast("cpu", torch.bfloat16):
        z_autocast, carry_autocast = topology.aggregate(state)
        carry_of_fp32 = topology.aggregate(state.float())[1]
    assert z.dtype == z_autocast.dtype == torch.bfloat16
    for name in ("pre", "post", "res"):
        for found in (carry, carry_autocast, carry_of_fp32):
            assert getattr(found, name).dtype == torch.float32
            assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert topology.mixing(carry).dtype == torch.float32


@pytest.mark.parametrize("factory", FACTORIES)
def test_states_keep_their_dtype(factory):
    topology = randomise(FACTORIES[factory](16))
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        state = topology.expand(torch.randn(2, 3, 16).to(dtype))
        z, carry = topology.aggregate(state)
        assert z.dtype == dtype
        for y_dtype in (torch.bfloat16, torch.float32):  # under autocast y is bf16 beside an fp32 state
            following = topology.combine(state, z.to(y_dtype), carry)
            assert following.dtype == dtype
        assert topology.reduce(following).dtype == dtype
        assert topology.streams(following).dtype == dtype
    state = topology.double().expand(torch.randn(2, 3, 16, dtype=torch.float64))
    assert topology(state, torch.tanh).dtype == torch.float64
    assert topology.aggregate(state)[1].res.dtype == torch.float64


@pytest.mark.parametrize("factory", FACTORIES)
def test_bf16_and_autocast_models_are_near_the_fp32_one(factory):
    model = randomise(language_model(FACTORIES[factory]), 0.1)
    expected = model(tokens())
    with torch.autocast("cpu", torch.bfloat16):
        autocast = model(tokens())
        loss = autocast.float().square().mean()
    loss.backward()
    gradients = [parameter.grad for parameter in model.trunk.topologies.parameters()]
    assert all(gradient.dtype == torch.float32 and torch.isfinite(gradient).all() for gradient in gradients)
    # bf16 keeps 2^-8 of a value; a few dozen roundings in sequence
    assert relative_error(autocast, expected) < 0.05
    assert relative_error(model.bfloat16()(tokens()), expected) < 0.05


def test_gradients_of_the_mixing_are_fp32_in_a_bf16_model():
    model = language_model(ManifoldHyperConnection).bfloat16()
    logits = model(tokens())
    logits.backward(torch.randn_like(logits))
    assert {p.grad.dtype for p in model.trunk.topologies.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in model.trunk.sublayers.parameters()} == {torch.bfloat16}
