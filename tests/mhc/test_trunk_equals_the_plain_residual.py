"""At the start mHC and HC are the plain residual, and yet they learn: streams part, and H_res moves."""

from functools import partial

import pytest
import torch
from helpers import relative_error
from models import language_model, observed, tokens, train

from mhc import CausalLanguageModel, HyperConnection, ManifoldHyperConnection, Residual


def like_plain(topology) -> tuple[CausalLanguageModel, CausalLanguageModel]:
    """The plain model and one with the topology; embedding, sublayers, norm and head are the same."""
    plain, other = language_model(Residual, depth=4), language_model(topology, depth=4)
    keys = other.load_state_dict(plain.state_dict(), strict=False)
    assert all(key.startswith("trunk.topologies.") for key in keys.missing_keys)
    return plain, other


def spread(state: torch.Tensor) -> float:
    """How far streams are from their mean, relative to the state."""
    return relative_error(state, state.mean(-2, keepdim=True).expand_as(state))


@pytest.mark.parametrize("n", range(1, 9))
def test_mhc_trunk_starts_as_the_plain_one(n):
    plain, other = like_plain(partial(ManifoldHyperConnection, streams=n))
    inputs = tokens()
    # roundings of 8 sublayers in fp32
    assert relative_error(other(inputs), plain(inputs)) < 5e-6
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    plain, other = plain.double(), other.double()
    # fp64 shows that nothing but the fp32 of the biases is between them; one stream reads with sigmoid(8), which the
    # eps of a pre-norm can see
    assert relative_error(other.trunk(x), plain.trunk(x)) < (1e-8 if n > 1 else 1e-6)


@pytest.mark.parametrize("switches", [{"pre": False}, {"post": False}, {"res": False}])
def test_mhc_with_a_part_switched_off_starts_as_the_plain_trunk(switches):
    plain, other = like_plain(partial(ManifoldHyperConnection, **switches))
    assert relative_error(other(tokens()), plain(tokens())) < 5e-6


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("n", range(1, 9))
def test_hc_trunk_starts_as_the_plain_one_times_n(n, dynamic):
    plain, other = like_plain(partial(HyperConnection, streams=n, dynamic=dynamic))
    x = torch.randn(2, 5, 16)
    assert relative_error(other.trunk(x), n * plain.trunk(x)) < 5e-6
    # the final norm takes the scale away, down to its eps
    assert relative_error(other(tokens()), plain(tokens())) < 2e-5


def test_gradients_at_the_start_are_the_plain_ones():
    plain, other = like_plain(ManifoldHyperConnection)
    upstream = torch.randn_like(plain(tokens()))
    for model in (plain, other):
        model(tokens()).backward(upstream)
    gradients = dict(other.named_parameters())
    for name, parameter in plain.named_parameters():
        assert relative_error(gradients[name].grad, parameter.grad) < 2e-5, name


def test_streams_part_within_five_steps():
    model = language_model(ManifoldHyperConnection)
    assert spread(observed(model, tokens())[-1][0]) < 1e-6
    train(model, 5)
    assert spread(observed(model, tokens())[-1][0]) > 1e-3


def test_a_symmetric_start_never_parts():
    # what the unequal reads of init="residual" are for, and that the test above can fail
    model = language_model(ManifoldHyperConnection)
    for topology in model.trunk.topologies:
        with torch.no_grad():
            topology.bias[:4] = 0.0
    train(model, 5)
    assert spread(observed(model, tokens())[-1][0]) < 1e-6


@pytest.fixture(scope="module")
def trained():
    """The model, H_res of every sublayer before, and after 100 steps."""
    model = language_model(ManifoldHyperConnection)
    before = [mixing for _, mixing in observed(model, tokens())]
    loss = train(model, 100)
    return loss, before, [mixing for _, mixing in observed(model, tokens())]


def test_h_res_has_moved_by_a_hundredth_after_a_hundred_steps(trained):
    _, before, after = trained
    moved = [float((b - a).abs().max()) for a, b in zip(before, after, strict=True)]
    # the first sublayer sees copies alone: rows that sum to 1 return them, and all there is to learn from is rounding
    assert moved[0] < 1e-3
    assert min(moved[1:]) > 0.01, moved


def test_h_res_is_still_doubly_stochastic_after_a_hundred_steps(trained):
    for mixing in trained[2]:
        assert (mixing >= 0).all()
        assert (mixing.sum(-1) - 1).abs().max() < 1e-6
        # 20 steps near the identity: each leaves 0.93^2 of the error, and learned logits started some percent off
        assert (mixing.sum(-2) - 1).abs().max() < 0.02


def test_the_task_is_learned(trained):
    assert trained[0] < 1.0  # log 23 = 3.1 at chance; the first token or two of a sequence cannot be known
