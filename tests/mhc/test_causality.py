"""No logit depends on a later token, in any topology: by perturbation and by gradient."""

import pytest
import torch
from helpers import randomise, relative_error
from models import TOPOLOGIES, VOCABULARY, language_model, tokens


@pytest.fixture(params=TOPOLOGIES)
def model(request):
    return randomise(language_model(TOPOLOGIES[request.param]), 0.1).double()


@pytest.mark.parametrize("position", [0, 4, 10])
def test_changing_a_token_changes_its_own_logits_and_later_ones_alone(model, position):
    inputs = tokens(2, 11)
    changed = inputs.clone()
    changed[0, position] = (changed[0, position] + 1) % VOCABULARY
    with torch.no_grad():
        before, after = model(inputs), model(changed)
    # other blocks of a matrix product, other roundings: what must be equal is equal to fp64
    assert relative_error(after[0, :position], before[0, :position]) < 1e-13
    assert relative_error(after[1], before[1]) < 1e-13
    later = (after[0, position:] - before[0, position:]).abs().amax(-1)
    assert (later > 1e-6).all()


def test_gradients_reach_earlier_tokens_alone(model):
    embedded = model.embedding(tokens(1, 9)).detach().requires_grad_()
    logits = model.norm(model.trunk(embedded))
    for position in (0, 3, 8):
        upstream = torch.zeros_like(logits)
        upstream[:, position] = torch.randn_like(upstream[:, position])
        (gradient,) = torch.autograd.grad(logits, embedded, upstream, retain_graph=True)
        reached = gradient[0].abs().amax(-1)
        assert not reached[position + 1 :].any()
        assert (reached[: position + 1] > 0).all()
