"""What is written to one stream is still there sublayers later: no collapsing and re-expanding between layers."""

from functools import partial

import pytest
import torch
from helpers import randomise
from torch import nn

from mhc import Context, HyperConnection, ManifoldHyperConnection, Trunk

WIDTH, N, DEPTH = 12, 4, 5


class Collapsed(ManifoldHyperConnection):
    """A bug that others shipped: streams are averaged and copied again after every sublayer."""

    def combine(self, state, y, carry):
        return self.expand(self.reduce(super().combine(state, y, carry)))


class CollapsedSum(HyperConnection):
    """The same in HC, where streams are summed."""

    def combine(self, state, y, carry):
        return self.expand(self.reduce(super().combine(state, y, carry)))


class Sublayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, context):
        return torch.tanh(self.linear(x))


def responses(factory, written: int, at: int = 1, later: int = 2) -> torch.Tensor:
    """How much each stream changes, `later` sublayers after stream `written` alone got more from sublayer `at`."""
    torch.manual_seed(0)
    topologies = [factory(WIDTH, index) for index in range(DEPTH)]
    trunk = Trunk((Sublayer() for _ in range(DEPTH)), topologies).double()
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    change = torch.zeros(N, WIDTH, dtype=torch.float64)
    change[written] = torch.randn(WIDTH, dtype=torch.float64)
    combine, states = topologies[at].combine, []

    def observe(index, topology, state, carry):
        if index == at + later:
            states.append(state)

    with torch.no_grad():
        trunk(x, Context(observe=observe))
        topologies[at].combine = lambda *arguments: combine(*arguments) + change
        trunk(x, Context(observe=observe))
    return (states[1] - states[0]).square().mean((0, 1, 3)).sqrt()


STREAMED = {
    "mhc": ManifoldHyperConnection,
    "mhc identity": partial(ManifoldHyperConnection, init="identity"),
    "hc": HyperConnection,
}


@pytest.mark.parametrize("written", range(N))
@pytest.mark.parametrize("name", STREAMED)
def test_a_stream_keeps_what_it_was_given_two_sublayers_later(name, written):
    response = responses(STREAMED[name], written)
    others = response[torch.arange(N) != written]
    assert response[written] > 2 * others.max()


@pytest.mark.parametrize("topology", [Collapsed, CollapsedSum])
def test_a_collapsed_topology_would_be_seen(topology):
    for written in range(N):
        response = responses(topology, written)
        assert response.min() > 0
        assert response.max() < 1.001 * response.min()  # every stream alike: the streams are off


def test_a_trunk_hands_the_state_on_untouched():
    # what one sublayer's combine returns is what the next one's aggregate gets, by identity
    class Recording(ManifoldHyperConnection):
        def aggregate(self, state):
            read.append(state)
            return super().aggregate(state)

        def combine(self, state, y, carry):
            written.append(super().combine(state, y, carry))
            return written[-1]

    read, written = [], []
    trunk = Trunk((Sublayer() for _ in range(DEPTH)), (randomise(Recording(WIDTH, k)) for k in range(DEPTH)))
    trunk(torch.randn(1, 2, WIDTH))
    assert len(read) == len(written) == DEPTH
    assert all(a is b for a, b in zip(written, read[1:], strict=False))
    assert read[0].shape == (1, 2, N, WIDTH)
