"""Which parameters take weight decay, by name."""

from functools import partial

import pytest
import torch
from models import TOPOLOGIES
from torch import nn

from mhc import Attention, CausalLanguageModel, HyperConnection, SwiGLU, parameter_groups

MIXING = {  # of one topology: (decaying, others)
    "residual": (set(), set()),
    "hc": (
        {"dynamic_alpha"},
        {"static_alpha", "static_beta", "dynamic_beta", "alpha_scale", "beta_scale", "norm.weight", "norm.bias"},
    ),
    "mhc": ({"phi"}, {"alpha", "bias"}),
}
MIXING |= dict.fromkeys(("mhc lite", "kromhc", "identity"), MIXING["mhc"])


def build(kind: str, tied: bool = True) -> CausalLanguageModel:
    return CausalLanguageModel(
        11,
        8,
        1,
        topology=TOPOLOGIES[kind],
        attention=partial(Attention, heads=2, query_key_norm=True),
        feed_forward=partial(SwiGLU, hidden=16),
        tied=tied,
    )


def names(model: nn.Module) -> tuple[set[str], set[str]]:
    """Names of the parameters that decay, and of those that never do; each parameter must be in one group, once."""
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying, others = parameter_groups(model)
    assert set(decaying) == {"params"}  # takes the optimizer's own rate
    assert set(others) == {"params", "weight_decay"}
    assert others["weight_decay"] == 0.0
    found = [[by_id[id(parameter)] for parameter in group["params"]] for group in (decaying, others)]
    assert len(found[0] + found[1]) == len(set(found[0] + found[1]))
    return set(found[0]), set(found[1])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", TOPOLOGIES)
def test_matrices_decay_and_everything_else_does_not(kind, tied):
    decaying, others = names(build(kind, tied))
    weights = {"0.query_key_value", "0.output", "1.gate", "1.up", "1.down"}
    norms = {"0.norm", "0.query_norm", "0.key_norm", "1.norm"}
    mixing = [{f"trunk.topologies.{k}.{name}" for k in range(2) for name in part} for part in MIXING[kind]]
    head = set() if tied else {"head.weight"}
    assert decaying == {f"trunk.sublayers.{name}.weight" for name in weights} | mixing[0] | head
    assert others == {f"trunk.sublayers.{n}.weight" for n in norms} | mixing[1] | {"embedding.weight", "norm.weight"}


def test_a_head_tied_by_hand_is_an_embedding():
    model = build("mhc", tied=False)
    model.head.weight = model.embedding.weight
    decaying, others = names(model)
    assert "embedding.weight" in others
    assert not any("head" in name for name in decaying | others)


def test_frozen_parameters_are_left_out():
    model = build("hc")
    model.trunk.sublayers[0].requires_grad_(False)
    model.embedding.requires_grad_(False)
    decaying, others = names(model)
    assert decaying | others == {name for name, p in model.named_parameters() if p.requires_grad}
    assert "embedding.weight" not in others


def test_static_matrices_do_not_decay_in_a_topology_of_its_own():
    decaying, others = names(HyperConnection(8, dynamic=False))
    assert not decaying
    assert others == {"static_alpha", "static_beta"}


def test_an_optimizer_takes_them_with_its_own_rate():
    model = build("mhc")
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=1.0, weight_decay=0.5)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decaying, others = names(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name] * (0.5 if name in decaying else 1.0)), name
    assert others
