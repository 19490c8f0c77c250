"""A trunk of mHC joins its neighbours where that means the same, and gives the same with and without."""

import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from helpers import FP64, assert_close, randomise

import mhc.manifold_hyper_connection as module
from mhc import Attention, FeedForward, ManifoldHyperConnection, Residual, ResidualTopology, Trunk

B, S, C, DEPTH = 2, 5, 12, 6


def trunk_of(topologies) -> Trunk:
    torch.manual_seed(0)
    sublayers = [m for _ in range(DEPTH // 2) for m in (Attention(C, heads=3), FeedForward(C, hidden=2 * C))]
    return randomise(Trunk(sublayers, topologies), 0.4)


def results(trunk, x):
    parameters = {"x": x} | dict(trunk.named_parameters())
    out = trunk(x)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(out.dtype)
    found = torch.autograd.grad(out, list(parameters.values()), upstream, allow_unused=True, materialize_grads=True)
    return {"out": out} | dict(zip(parameters, found, strict=True))


@pytest.fixture
def joined(monkeypatch):
    """The widths of the boundaries that went through the one operation."""
    calls, operation = [], module.combine_aggregate

    def spy(x, *arguments, **options):
        calls.append(x.shape[-1])
        return operation(x, *arguments, **options)

    monkeypatch.setattr(module, "combine_aggregate", spy)
    return calls


@pytest.fixture
def apart(monkeypatch):
    """A function that makes every topology from here on combine first and aggregate then."""
    return lambda: monkeypatch.setattr(ManifoldHyperConnection, "combine_aggregate", ResidualTopology.combine_aggregate)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"post": False},
        {"res": False},
        {"post": False, "res": False},
        {"last": "columns", "eps": 1e-6},
        {"streams": 1},
    ],
    ids=str,
)
def test_joined_neighbours_equal_neighbours_apart(joined, apart, options):
    trunk = trunk_of(ManifoldHyperConnection(C, index, **options) for index in range(DEPTH)).double()
    x = torch.randn(B, S, C, dtype=torch.float64, requires_grad=True)
    together = results(trunk, x)
    assert joined == [C] * (DEPTH - 1)
    apart()
    assert_close(together, results(trunk, x), FP64)
    assert len(joined) == DEPTH - 1


@pytest.mark.parametrize(
    "second",
    [
        partial(ManifoldHyperConnection, pre=False),  # reads with a constant, so nothing waits for its coefficients
        partial(ManifoldHyperConnection, impl="reference"),
        type("ReadsItsOwnWay", (ManifoldHyperConnection,), {"aggregate": lambda self, s: self._read(s)}
             | {"_read": lambda self, s: (s.sum(-2), self.coefficients(s))}),
        type("MixesItsOwnWay", (ManifoldHyperConnection,), {
            "coefficients": lambda self, s: ManifoldHyperConnection.coefficients(self, 2 * s)
        }),
    ],
    ids=["pre off", "other code", "own aggregate", "own coefficients"],
)  # fmt: skip
def test_what_reads_in_another_way_is_not_joined(joined, apart, second):
    trunk = trunk_of(second(C, k) if k == 3 else ManifoldHyperConnection(C, k) for k in range(DEPTH)).double()
    x = torch.randn(B, S, C, dtype=torch.float64, requires_grad=True)
    together = results(trunk, x)
    # only what follows can forbid it, but code must agree on both sides
    assert len(joined) == DEPTH - 1 - (2 if getattr(second, "keywords", {}).get("impl") else 1)
    apart()
    assert_close(together, results(trunk, x), FP64)


def test_what_writes_in_another_way_is_not_joined(joined):
    class Doubling(ManifoldHyperConnection):
        def combine(self, state, y, carry):
            return super().combine(state, 2 * y, carry)

    trunk_of(Doubling(C, index) for index in range(DEPTH))(torch.randn(B, S, C))
    assert joined == []


def test_a_neighbour_of_another_kind_is_left_to_itself():
    class Reader(Residual):
        def aggregate(self, state):
            return state.sum(-2), None

    first, y = ManifoldHyperConnection(C), torch.randn(B, S, C)
    state = first.expand(y)
    _, carry = first.aggregate(state)
    after, read, its_carry = first.combine_aggregate(state, y, carry, Reader())
    assert torch.equal(after, first.combine(state, y, carry))
    assert torch.equal(read, after.sum(-2))
    assert its_carry is None


UNDER_THE_INTERPRETER = """
import sys
import torch
sys.path.insert(0, {tests!r})
from functools import partial
from helpers import assert_close
from mhc import ManifoldHyperConnection
import test_combine_aggregate_in_the_trunk as here

results = []
for impl in ("triton", "reference"):
    trunk = here.trunk_of(ManifoldHyperConnection(here.C, index, impl=impl) for index in range(here.DEPTH))
    torch.manual_seed(1)
    results.append(here.results(trunk, torch.randn(here.B, here.S, here.C, requires_grad=True)))
assert_close(*results, 2e-5)
print("equal")
"""


def test_fused_kernels_give_the_trunk_the_same_gradients():
    here = os.path.dirname(__file__)
    tests = os.path.dirname(here)
    environment = os.environ | {
        "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([os.path.dirname(tests), tests, here]),
    }  # fmt: skip
    pytest.importorskip("triton")
    ran = subprocess.run(
        [sys.executable, "-c", UNDER_THE_INTERPRETER.format(tests=here)],
        env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert ran.stdout.strip() == "equal", ran.stderr[-2000:]
