"""All-zero tokens (padding, empty image slots): finite, and as large a gradient as norm_eps says."""

import pytest
import torch
from helpers import randomise, relative_error
from models import language_model, tokens

from mhc import HyperConnection, ManifoldHyperConnection


def zero_token_gradient(norm_eps: float) -> float:
    """Size of the gradient of an all-zero token under random weights and a random upstream."""
    torch.manual_seed(0)
    topology = randomise(ManifoldHyperConnection(16, norm_eps=norm_eps), 0.1)
    state = torch.randn(1, 3, 4, 16)
    state[:, 1] = 0.0
    state.requires_grad_()
    result = topology(state, lambda x: torch.tanh(x + 1))
    result.backward(torch.randn_like(result))
    assert torch.isfinite(result).all()
    for name, gradient in [("state", state.grad), *((k, p.grad) for k, p in topology.named_parameters())]:
        assert torch.isfinite(gradient).all(), name
    return float(state.grad[:, 1].norm())


def test_a_zero_token_is_finite_and_its_gradient_is_what_norm_eps_allows():
    paper, padded = zero_token_gradient(1e-20), zero_token_gradient(1e-6)
    # the path through the coefficients has 1 / sqrt(norm_eps): 1e10 against 1e3, the other paths are of order 1
    assert paper / padded > 1e6
    assert padded < 1e3


def test_a_zero_token_has_the_coefficients_of_the_bias():
    topology = randomise(ManifoldHyperConnection(16), 0.5)
    empty = topology.coefficients(torch.zeros(1, 1, 4, 16))
    with torch.no_grad():
        topology.alpha.zero_()
    static = topology.coefficients(torch.randn(1, 1, 4, 16))
    assert all(torch.equal(a, b) for a, b in zip(empty, static, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factory", [ManifoldHyperConnection, HyperConnection])
def test_empty_tokens_leave_the_others_alone(factory, dtype):
    topology = randomise(factory(16), 0.3)
    state = torch.randn(2, 5, 4, 16).to(dtype)
    alone = topology(state, torch.tanh)
    padded = state.clone()
    padded[:, 3:] = 0.0
    result = topology(padded, torch.tanh)
    assert torch.equal(result[:, :3], alone[:, :3])
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("factory", [ManifoldHyperConnection, HyperConnection])
def test_a_model_trains_with_a_zero_embedding(factory):
    model = randomise(language_model(factory), 0.1)
    inputs = tokens()
    inputs[:, 3] = 0
    with torch.no_grad():
        model.embedding.weight[0] = 0.0
    logits = model(inputs)
    logits.backward(torch.randn_like(logits))
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e15])
def test_coefficients_of_tiny_and_huge_tokens_are_finite(scale):
    topology = randomise(ManifoldHyperConnection(16), 0.3)
    state = (scale * torch.randn(1, 2, 4, 16)).requires_grad_()
    coefficients = topology.coefficients(state)
    torch.autograd.backward(coefficients, [torch.randn_like(c) for c in coefficients])
    assert all(torch.isfinite(c).all() for c in coefficients)
    assert torch.isfinite(state.grad).all()
    if scale > 1:
        unit = topology.coefficients(state.detach() / scale)
        assert all(relative_error(a, b) < 1e-5 for a, b in zip(coefficients, unit, strict=True))
