"""The trunk: order of calls, what observers see, one topology object for several sublayers, wrong lengths."""

import pytest
import torch
from helpers import randomise, relative_error
from torch import nn

from mhc import Context, HyperConnection, ManifoldHyperConnection, Residual, ResidualTopology, Trunk

C = 8


class Sublayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(C, C)
        self.contexts = []

    def forward(self, x, context=None):
        self.contexts.append(context)
        return torch.tanh(self.linear(x))


def loop(trunk: Trunk, x: torch.Tensor) -> torch.Tensor:
    state = trunk.topologies[0].expand(x)
    for topology, sublayer in zip(trunk.topologies, trunk.sublayers, strict=True):
        state = topology(state, sublayer)
    return trunk.topologies[-1].reduce(state)


KINDS = [Residual, HyperConnection, ManifoldHyperConnection]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_a_trunk_is_the_loop_of_its_topologies(kind, depth):
    trunk = randomise(Trunk((Sublayer() for _ in range(depth)), (kind(C, k) for k in range(depth)))).double()
    x = torch.randn(2, 3, C, dtype=torch.float64)
    assert relative_error(trunk(x), loop(trunk, x)) < 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_one_topology_object_may_serve_every_sublayer(kind):
    shared = kind(C)
    trunk = randomise(Trunk((Sublayer() for _ in range(4)), [shared] * 4)).double()
    x = torch.randn(2, 3, C, dtype=torch.float64)
    assert relative_error(trunk(x), loop(trunk, x)) < 1e-13


def test_the_plain_residual_is_x_plus_f():
    trunk = Trunk((Sublayer() for _ in range(3)), (Residual(C, k) for k in range(3)))
    x = expected = torch.randn(2, 3, C)
    for sublayer in trunk.sublayers:
        expected = expected + sublayer(expected)
    assert torch.equal(trunk(x), expected)
    assert list(trunk.topologies.parameters()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_observers_see_the_state_that_was_read(kind):
    trunk = randomise(Trunk((Sublayer() for _ in range(3)), (kind(C, k) for k in range(3)))).double()
    seen = []
    context = Context(observe=lambda *given: seen.append(given))
    x = torch.randn(2, 3, C, dtype=torch.float64)
    observed_output = trunk(x, context)
    assert relative_error(observed_output, trunk(x)) == 0.0
    assert [given[0] for given in seen] == [0, 1, 2]
    state = trunk.topologies[0].expand(x)
    for (_, topology, seen_state, carry), sublayer, own in zip(seen, trunk.sublayers, trunk.topologies, strict=True):
        assert topology is own
        assert relative_error(seen_state, state) < 1e-13
        streams = topology.streams(state)
        assert streams.shape == (2, 3, 1 if kind is Residual else 4, C)
        mixing = topology.mixing(carry)
        assert mixing is None if kind is Residual else mixing.shape == (2, 3, 4, 4)
        state = topology(state, sublayer)
    assert all(context in sublayer.contexts for sublayer in trunk.sublayers)


def test_as_many_topologies_as_sublayers():
    for sublayers, topologies in ((0, 0), (2, 1), (1, 2)):
        with pytest.raises(ValueError, match=f"got {sublayers} and {topologies}"):
            Trunk((Sublayer() for _ in range(sublayers)), (Residual() for _ in range(topologies)))


def test_an_incomplete_topology_cannot_be_made():
    class Half(ResidualTopology):
        def expand(self, x):
            return x

    with pytest.raises(TypeError, match="aggregate"):
        Half()


def test_a_topology_wraps_any_module():
    # the drop-in use: no trunk, a branch of one's own
    topology = ManifoldHyperConnection(C)
    layer = nn.TransformerEncoderLayer(C, 2, 16, dropout=0.0, batch_first=True)
    x = torch.randn(2, 3, C)
    result = topology.reduce(topology(topology.expand(x), layer))
    torch.testing.assert_close(result, x + layer(x))
