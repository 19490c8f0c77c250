"""The seam holds: four ideas from other papers as small topologies in the unchanged trunk, each against its equation.

Frac-Connections has no oracle here; its loop is written from the equation of arXiv 2503.14125.
"""

import inspect

import oracles
import pytest
import torch
from helpers import assert_close, gradients, randomise
from torch import nn

from kernels import aggregate
from mhc import Attention, Context, FeedForward, ManifoldHyperConnection, ResidualTopology, Trunk

B, S, C, DEPTH = 2, 5, 12, 6


class AttentionResidual(ResidualTopology):
    """Input = sum_i softmax_i(w . RMSNorm(v_i)) v_i over the embedding and earlier outputs (arXiv 2603.15031)."""

    def __init__(self, width, index=0):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def expand(self, x):
        return (x,)

    def aggregate(self, state):
        v = torch.stack(state, -2)
        weights = (self.norm(v) @ self.query).softmax(-1)
        return aggregate(v, weights) if len(state) <= 8 else (weights[..., None] * v).sum(-2), None

    def combine(self, state, y, carry):
        return (*state, y)

    def reduce(self, state):
        return sum(state)


class DenseFormer(ResidualTopology):
    """After each block of two sublayers, x = sum_j a_j X_j over the embedding and all blocks (arXiv 2402.02622)."""

    def __init__(self, width, index=0):
        super().__init__()
        self.ends_block = index % 2 == 1
        if self.ends_block:
            self.weights = nn.Parameter(torch.cat([torch.zeros(index // 2 + 1), torch.ones(1)]))

    def expand(self, x):
        return x, (x,)

    def aggregate(self, state):
        return state[0], None

    def combine(self, state, y, carry):
        current, past = state[0] + y, state[1]
        if not self.ends_block:
            return current, past
        past = (*past, current)
        return sum(a * x for a, x in zip(self.weights, past, strict=True)), past

    def reduce(self, state):
        return state[0]


class FracConnection(ResidualTopology):
    """Hyper-Connections among m fractions of the width: no stream is added (arXiv 2503.14125)."""

    def __init__(self, width, index=0, *, fractions=3):
        super().__init__()
        self.m = fractions
        self.read = nn.Parameter(torch.eye(fractions))
        self.keep = nn.Parameter(torch.eye(fractions))
        self.write = nn.Parameter(torch.ones(fractions))
        self.dynamic = nn.Parameter(torch.zeros(width // fractions, 2 * fractions + 1))
        self.scale = nn.Parameter(torch.tensor(0.01))

    def expand(self, x):
        return x

    def aggregate(self, state):
        h = state.unflatten(-1, (self.m, -1))
        dynamic = self.scale * torch.tanh(nn.functional.layer_norm(h, h.shape[-1:]) @ self.dynamic)
        read, keep, write = dynamic.split([self.m, self.m, 1], -1)
        carry = (self.keep + keep).mT, self.write + write[..., 0]
        return ((self.read + read).mT @ h).flatten(-2), carry

    def combine(self, state, y, carry):
        keep, write = carry
        h, y = state.unflatten(-1, (self.m, -1)), y.unflatten(-1, (self.m, -1))
        return (keep @ h + write[..., None] * y).flatten(-2)

    def reduce(self, state):
        return state

    def mixing(self, carry):
        return carry[0]


class EarlyMix(ManifoldHyperConnection):
    """Single-pass mHC: u_l = H_pre^(l-1) x_l, the mix that the sublayer before predicted; 1/n for the first."""

    def expand(self, x):
        streams = super().expand(x)
        return streams, torch.full_like(streams[..., 0], 1 / self.n)

    def aggregate(self, state):
        streams, pre = state
        return aggregate(streams, pre), self.coefficients(streams)

    def combine(self, state, y, carry):
        return super().combine(state[0], y, carry), carry.pre

    def combine_aggregate(self, state, y, carry, following):
        state = self.combine(state, y, carry)  # a fused kernel would write both at once: pre is known before x' is
        return state, aggregate(*state), following.coefficients(state[0])

    def reduce(self, state):
        return super().reduce(state[0])

    def streams(self, state):
        return state[0]


def trunk_of(kind, exit=None) -> Trunk:
    torch.manual_seed(0)
    sublayers = [m for _ in range(DEPTH // 2) for m in (Attention(C, heads=3), FeedForward(C, hidden=2 * C))]
    trunk = Trunk(sublayers, (kind(C, index) for index in range(DEPTH)), exit)
    return randomise(trunk, 0.4).double()


def attention_residuals(trunk, x):
    def read(topology, values):
        keys = [v / (v.square().mean(-1, keepdim=True) + 1e-6).sqrt() * topology.norm.weight for v in values]
        scores = torch.stack([(key * topology.query).sum(-1) for key in keys])
        weights = scores.exp() / scores.exp().sum(0)
        return sum(weight[..., None] * value for weight, value in zip(weights, values, strict=True))

    values = [x]
    for topology, sublayer in zip(trunk.topologies, trunk.sublayers, strict=True):
        values.append(sublayer(read(topology, values)))
    return read(trunk.exit, values) if trunk.exit is not None else sum(values)


def dense_former(trunk, x):
    outputs, y = [x], x
    for block in range(DEPTH // 2):
        y = y + trunk.sublayers[2 * block](y)
        outputs.append(y + trunk.sublayers[2 * block + 1](y))
        weights = trunk.topologies[2 * block + 1].weights
        assert len(weights) == len(outputs) == block + 2
        y = sum(weights[j] * outputs[j] for j in range(block + 2))
    return y


def frac_connections(trunk, x):
    for topology, sublayer in zip(trunk.topologies, trunk.sublayers, strict=True):
        m = topology.m
        h = x.chunk(m, -1)
        normed = [(f - f.mean(-1, keepdim=True)) / (f.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() for f in h]
        dynamic = [topology.scale * torch.tanh(f @ topology.dynamic) for f in normed]
        read = [[topology.read[i, k] + dynamic[i][..., k] for k in range(m)] for i in range(m)]
        keep = [[topology.keep[i, k] + dynamic[i][..., m + k] for k in range(m)] for i in range(m)]
        write = [topology.write[k] + dynamic[k][..., 2 * m] for k in range(m)]
        seen = [sum(read[i][k][..., None] * h[i] for i in range(m)) for k in range(m)]
        y = sublayer(torch.cat(seen, -1)).chunk(m, -1)
        x = torch.cat(
            [sum(keep[i][k][..., None] * h[i] for i in range(m)) + write[k][..., None] * y[k] for k in range(m)], -1
        )
    return x


def mixed_early(trunk, x):
    n = trunk.topologies[0].n
    streams, pre = torch.stack([x] * n, -2), x.new_full((*x.shape[:-1], n), 1 / n)
    for topology, sublayer in zip(trunk.topologies, trunk.sublayers, strict=True):
        y = sublayer(oracles.aggregate(streams, pre))
        pre, post, res = oracles.hyper_coefficients(streams, topology.phi, topology.alpha, topology.bias)
        streams = oracles.combine(streams, y, post, res)
    return streams.mean(-2)


CASES = {
    "attention residuals": (AttentionResidual, attention_residuals),
    "DenseFormer": (DenseFormer, dense_former),
    "Frac-Connections": (FracConnection, frac_connections),
    "a mix predicted early": (EarlyMix, mixed_early),
}


def compare(trunk: Trunk, loop) -> None:
    x = torch.randn(B, S, C, dtype=torch.float64, requires_grad=True)
    parameters = {"x": x} | {name: p for name, p in trunk.named_parameters() if used(name)}
    results = []
    for output in (trunk(x), loop(trunk, x)):
        found = gradients(output, list(parameters.values()))
        results.append({"out": output} | dict(zip(parameters, found, strict=True)))
    assert all(tensor.abs().max() > 1e-8 for tensor in results[1].values())
    assert_close(results[0], results[1], 1e-11)


def used(name: str) -> bool:
    # with one value to choose from, the first query of attention residuals has no effect
    return name not in ("topologies.0.query", "topologies.0.norm.weight")


@pytest.mark.parametrize("name", CASES)
def test_a_topology_in_the_unchanged_trunk_equals_the_loop_of_its_paper(name):
    kind, loop = CASES[name]
    compare(trunk_of(kind), loop)


def test_an_exit_that_learns_is_the_trunks():
    # attention residuals end with one more sum, with a query of its own
    class Exit(AttentionResidual):
        def forward(self, state):
            return self.aggregate(state)[0]

    trunk = trunk_of(AttentionResidual, Exit(C))
    assert "exit.query" in dict(trunk.named_parameters())
    compare(trunk, attention_residuals)


@pytest.mark.parametrize("name", CASES)
def test_a_topology_is_less_than_forty_lines(name):
    assert len(inspect.getsource(CASES[name][0]).splitlines()) < 40


@pytest.mark.parametrize("name", CASES)
def test_observers_see_any_topology(name):
    trunk = trunk_of(CASES[name][0])
    seen = []
    trunk(torch.randn(B, S, C, dtype=torch.float64), Context(observe=lambda *given: seen.append(given)))
    assert [index for index, *_ in seen] == list(range(DEPTH))
    for _, topology, state, carry in seen:
        mixing, streams = topology.mixing(carry), topology.streams(state)
        assert mixing is None or mixing.shape[:2] == (B, S)
        assert streams is None or streams.shape[:2] == (B, S)


def test_the_trunk_joins_neighbours_through_combine_aggregate():
    joined = []

    class Fused(ManifoldHyperConnection):
        def combine_aggregate(self, state, y, carry, following):
            joined.append((self.index, following.index))
            return super().combine_aggregate(state, y, carry, following)

        def combine(self, state, y, carry):
            joined.append(self.index)
            return super().combine(state, y, carry)

    trunk = trunk_of(Fused)
    trunk(torch.randn(B, S, C, dtype=torch.float64))
    pairs = [call for call in joined if isinstance(call, tuple)]
    assert pairs == [(index, index + 1) for index in range(DEPTH - 1)]
    assert joined[-1] == DEPTH - 1  # the last has no neighbour


def test_what_combine_aggregate_returns_is_what_runs():
    class Doubling(ManifoldHyperConnection):
        def combine_aggregate(self, state, y, carry, following):
            state, x, carry = super().combine_aggregate(state, y, carry, following)
            return state, 2 * x, carry

    class Twice(nn.Module):
        def __init__(self, sublayer):
            super().__init__()
            self.sublayer = sublayer

        def forward(self, x, context=None):
            return self.sublayer(2 * x)

    x = torch.randn(B, S, C, dtype=torch.float64)
    doubling, plain = trunk_of(Doubling), trunk_of(ManifoldHyperConnection)
    for sublayer in (*doubling.sublayers, *plain.sublayers):
        sublayer.norm = nn.Identity()  # a norm would hide the factor
    plain.sublayers = nn.ModuleList([plain.sublayers[0], *(Twice(sublayer) for sublayer in plain.sublayers[1:])])
    assert_close({"out": doubling(x)}, {"out": plain(x)}, 1e-12)
