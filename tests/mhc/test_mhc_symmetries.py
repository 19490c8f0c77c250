"""What holds for any width and any number of streams: order of streams, one stream, independence of tokens."""

from functools import partial

import pytest
import torch
from helpers import FP32, FP64, assert_close, outputs_and_gradients, randomise, relative_error

from mhc import HyperConnection, ManifoldHyperConnection, RMSNorm, Trunk


def permuted_mhc(topology: ManifoldHyperConnection, order: torch.Tensor) -> ManifoldHyperConnection:
    """The same topology with its streams in another order: rows and columns of phi, and the bias."""
    n, width = topology.n, topology.width
    columns = torch.arange(n * (n + 2))
    res = columns[2 * n :].view(n, n)[order][:, order].flatten()
    columns = torch.cat([columns[:n][order], columns[n : 2 * n][order], res])
    twin = ManifoldHyperConnection(width, streams=n).to(topology.phi.dtype)
    phi = topology.phi.detach().view(n, width, -1)[order][..., columns].flatten(0, 1)
    twin.load_state_dict({"phi": phi, "alpha": topology.alpha.detach(), "bias": topology.bias.detach()[columns]})
    return twin


def permuted_hc(topology: HyperConnection, order: torch.Tensor) -> HyperConnection:
    twin = HyperConnection(topology.width, streams=topology.n).to(topology.static_alpha.dtype)
    weights = {name: weight.clone() for name, weight in topology.state_dict().items()}
    columns = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + order])
    weights["static_alpha"] = weights["static_alpha"][order][:, columns]
    weights["static_beta"] = weights["static_beta"][order]
    weights["dynamic_alpha"] = weights["dynamic_alpha"][:, columns]
    twin.load_state_dict(weights)
    return twin


@pytest.mark.parametrize(
    ("kind", "permuted"), [(ManifoldHyperConnection, permuted_mhc), (HyperConnection, permuted_hc)]
)
@pytest.mark.parametrize("n", [2, 4, 7])
def test_permuting_the_streams_permutes_the_state_alone(n, kind, permuted):
    order = torch.randperm(n)
    topology = randomise(kind(9, 1, streams=n).double())
    twin = permuted(topology, order)
    state = torch.randn(2, 5, n, 9, dtype=torch.float64)
    z, carry = topology.aggregate(state)
    twin_z, twin_carry = twin.aggregate(state[..., order, :])
    assert relative_error(twin_z, z) < FP64
    assert relative_error(twin_carry.pre, carry.pre[..., order]) < FP64
    assert relative_error(twin_carry.post, carry.post[..., order]) < FP64
    assert relative_error(twin_carry.res, carry.res[..., order, :][..., order]) < FP64
    result = topology(state, torch.tanh)
    assert relative_error(twin(state[..., order, :], torch.tanh), result[..., order, :]) < FP64
    assert relative_error(twin.reduce(result[..., order, :]), topology.reduce(result)) < FP64


@pytest.mark.parametrize("factory", [ManifoldHyperConnection, HyperConnection])
@pytest.mark.parametrize("width", [1, 2, 5, 63])
@pytest.mark.parametrize("n", range(1, 9))
def test_any_number_of_streams_and_any_width(n, width, factory):
    trunk = Trunk((RMSLinear(width) for _ in range(3)), (factory(width, k, streams=n) for k in range(3)))
    randomise(trunk, 0.3)
    x = torch.randn(2, 3, width, requires_grad=True)
    result = trunk(x)
    assert result.shape == x.shape
    result.backward(torch.randn_like(result))
    for name, parameter in [("x", x), *trunk.named_parameters()]:
        assert torch.isfinite(parameter.grad).all(), name


class RMSLinear(torch.nn.Module):
    """A pre-norm sublayer of any width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = RMSNorm(width), torch.nn.Linear(width, width)

    def forward(self, x, context=None):
        return self.linear(self.norm(x))


def test_one_stream_is_the_residual_with_gates():
    topology = randomise(ManifoldHyperConnection(7, streams=1).double())
    state = torch.randn(3, 4, 1, 7, dtype=torch.float64)
    pre, post, res = topology.coefficients(state)
    assert relative_error(res, torch.ones_like(res)) < FP64
    expected = state + post[..., None] * torch.tanh(pre * state[..., 0, :])[..., None, :]
    assert relative_error(topology(state, torch.tanh), expected) < FP64


@pytest.mark.parametrize("factory", [ManifoldHyperConnection, partial(HyperConnection, tanh=False)])
def test_tokens_do_not_see_each_other(factory):
    topology = randomise(factory(8).double())
    state = torch.randn(3, 5, 4, 8, dtype=torch.float64)
    whole = topology(state, torch.tanh)
    assert relative_error(whole[1:2, 2:3], topology(state[1:2, 2:3], torch.tanh)) < FP64


@pytest.mark.parametrize("factory", [ManifoldHyperConnection, HyperConnection])
def test_leading_dimensions_are_free(factory):
    # the drop-in use: a topology around any module, on images or on single vectors
    topology = randomise(factory(8))
    x = torch.randn(24, 8)
    flat = topology.reduce(topology(topology.expand(x), torch.tanh))
    for shape in ((2, 3, 4, 8), (24, 1, 8), (1, 24, 8)):
        x_shaped = x.view(shape)
        result = topology.reduce(topology(topology.expand(x_shaped), torch.tanh))
        assert relative_error(result.view(24, 8), flat) < FP32
    single = topology.reduce(topology(topology.expand(x[0]), torch.tanh))
    assert relative_error(single, flat[0]) < FP32


@pytest.mark.parametrize("factory", [ManifoldHyperConnection, HyperConnection])
def test_an_expanded_state_gives_what_its_copy_gives(factory):
    topology = randomise(factory(8).double())

    def run(x, copy: bool):
        state = topology.expand(x)
        return topology(state.contiguous() if copy else state, torch.tanh)

    x = {"x": torch.randn(2, 3, 8, dtype=torch.float64)}
    expected = outputs_and_gradients(lambda x: run(x, True), x)
    assert_close(outputs_and_gradients(lambda x: run(x, False), x), expected, FP64)


def test_eager_code_paths_agree():
    # plain torch and what "auto" takes on this machine; checkpoints and losses must not depend on it
    state, upstream = torch.randn(64, 3, 4, 8), torch.randn(64, 3, 4, 8)
    results = []
    for impl in ("reference", "auto"):
        topology = randomise(ManifoldHyperConnection(8, impl=impl))
        result = topology(state, torch.tanh)
        gradients = torch.autograd.grad(result, list(topology.parameters()), upstream)
        results.append(dict(enumerate([result, *gradients])))
    assert_close(results[1], results[0], FP32)


def test_impl_reaches_the_kernels():
    # the C code has no fp64, and an explicit choice never falls back
    topology = ManifoldHyperConnection(8, impl="native").double()
    with pytest.raises(RuntimeError, match="impl='native'"):
        topology.coefficients(torch.randn(2, 4, 8, dtype=torch.float64))
