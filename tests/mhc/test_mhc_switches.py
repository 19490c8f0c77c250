"""The switches pre, post and res of the paper's Table 1: a part that is off is a constant, the others are as before."""

import itertools

import pytest
import torch
from helpers import randomise, relative_error

from mhc import ManifoldHyperConnection

N, C = 4, 6
CONSTANTS = {"pre": torch.full((N,), 1 / N), "post": torch.ones(N), "res": torch.eye(N)}


@pytest.mark.parametrize("on", list(itertools.product([True, False], repeat=3)))
@pytest.mark.parametrize("init", ["residual", "uniform", "identity"])
def test_a_part_that_is_off_is_its_constant(init, on):
    switches = dict(zip(CONSTANTS, on, strict=True))
    topology = randomise(ManifoldHyperConnection(C, init=init, **switches))
    learned = ManifoldHyperConnection(C, init=init)
    learned.load_state_dict(topology.state_dict())  # switches change no parameter, so checkpoints interchange
    state = torch.randn(2, 3, N, C)
    coefficients, full = topology.coefficients(state)._asdict(), learned.coefficients(state)._asdict()
    for name, switch in switches.items():
        wanted = full[name] if switch else CONSTANTS[name].expand_as(full[name])
        assert torch.equal(coefficients[name], wanted), name
        assert switch or not torch.equal(full[name], wanted), "the constant is no special case of the random weights"
    carry = topology.aggregate(state)[1]
    assert torch.equal(topology.mixing(carry), coefficients["res"])


@pytest.mark.parametrize("off", CONSTANTS)
def test_a_part_that_is_off_gets_no_gradient(off):
    topology = randomise(ManifoldHyperConnection(C, **{off: False}))
    result = topology(torch.randn(2, 3, N, C), torch.tanh)
    result.backward(torch.randn_like(result))
    parts = dict(zip(CONSTANTS, topology.bias.grad.split([N, N, N * N]), strict=True))
    assert {name: bool(gradient.any()) for name, gradient in parts.items()} == {name: name != off for name in parts}
    assert (topology.alpha.grad == 0).tolist() == [name == off for name in CONSTANTS]


def test_all_off_is_the_mean_read_residual():
    topology = randomise(ManifoldHyperConnection(C, pre=False, post=False, res=False).double())
    state = torch.randn(2, 3, N, C, dtype=torch.float64)
    expected = state + torch.tanh(state.mean(-2))[..., None, :]
    assert relative_error(topology(state, torch.tanh), expected) < 1e-14
