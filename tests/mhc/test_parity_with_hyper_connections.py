"""HyperConnection against the package hyper-connections and the paper's matrices, forward and every gradient."""

from functools import partial

import pytest
import torch
from helpers import FP64, assert_close, gradients, random_like, randomise, relative_error
from torch import nn

from mhc import HyperConnection, Trunk

package = pytest.importorskip("hyper_connections.hyper_connections")

B, S, C = 2, 5, 12
NAMES = {  # ours: theirs
    "static_alpha": "static_alpha",
    "static_beta": "static_beta",
    "dynamic_alpha": "dynamic_alpha_fn",
    "dynamic_beta": "dynamic_beta_fn",
    "alpha_scale": "dynamic_alpha_scale",
    "beta_scale": "dynamic_beta_scale",
    "norm.gamma": "norm.gamma",
}


class Sublayer(nn.Module):
    """Not linear and not position-wise, so that a wrong order or a wrong stream cannot cancel."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(C, C)

    def forward(self, x, context=None):
        return torch.tanh(self.linear(x)).cumsum(1)


def trunks(n: int, layers: int, tanh: bool) -> tuple[Trunk, nn.ModuleList]:
    """Ours and theirs, with the same random weights in fp64."""
    factory = partial(HyperConnection, streams=n, tanh=tanh, norm=package.RMSNorm)
    ours = Trunk((Sublayer() for _ in range(layers)), (factory(C, index) for index in range(layers)))
    randomise(ours.double())
    theirs = nn.ModuleList(
        package.HyperConnections(n, dim=C, layer_index=index, tanh=tanh, branch=sublayer)
        for index, sublayer in enumerate(ours.sublayers)
    ).double()
    for mine, yours in zip(ours.topologies, theirs, strict=True):
        own = yours.state_dict()
        # their scales have no dimension
        weights = {other: mine.state_dict()[name].view_as(own[other]) for name, other in NAMES.items()}
        missing = yours.load_state_dict(weights, strict=False)
        assert not missing.unexpected_keys
        assert all(name.startswith("branch.") for name in missing.missing_keys)
    return ours, theirs


@pytest.mark.parametrize("tanh", [True, False])
@pytest.mark.parametrize(("n", "layers"), [(4, 1), (4, 3), (2, 3), (1, 2)])
def test_a_trunk_and_its_gradients_equal_the_package(n, layers, tanh):
    ours, theirs = trunks(n, layers, tanh)
    expand, reduce = package.get_expand_reduce_stream_functions(n)
    x = torch.randn(B, S, C, dtype=torch.float64, requires_grad=True)

    state = expand(x)
    for layer in theirs:
        state = layer(state)
    expected, actual = reduce(state), ours(x)
    assert relative_error(actual, expected) < FP64

    mine = [dict(topology.named_parameters()) for topology in ours.topologies]
    yours = [dict(topology.named_parameters()) for topology in theirs]
    inputs = {"x": (x, x)}
    for k in range(layers):
        inputs |= {f"{k}.{a}": (mine[k][a], yours[k][b]) for a, b in NAMES.items()}
        assert len(mine[k]) == len(NAMES)
        inputs[f"{k}.linear"] = (ours.sublayers[k].linear.weight,) * 2
    found = gradients(actual, [pair[0] for pair in inputs.values()])
    wanted = gradients(expected, [pair[1] for pair in inputs.values()])
    assert all(g.abs().max() > 1e-6 for g in wanted)
    wanted = [gradient.view_as(own) for gradient, own in zip(wanted, found, strict=True)]
    assert_close(dict(zip(inputs, found, strict=True)), dict(zip(inputs, wanted, strict=True)), 10 * FP64)


@pytest.mark.parametrize("index", range(6))
def test_both_start_the_same(index):
    ours = HyperConnection(C, index, norm=package.RMSNorm)
    theirs = dict(package.HyperConnections(4, dim=C, layer_index=index).named_parameters())
    for mine, yours in NAMES.items():
        own = ours.state_dict()[mine]
        assert torch.equal(own, theirs[yours].detach().view_as(own)), mine


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_sublayer_equals_the_matrices_of_the_paper(dynamic):
    # HC = [[0, B], [A_m, A_r]]: h_0 = A_m^T H, H' = B^T F(h_0)^T + A_r^T H, with the paper's LayerNorm
    n = 4
    topology = randomise(HyperConnection(C, 2, streams=n, dynamic=dynamic).double())
    assert topology.norm is None if not dynamic else isinstance(topology.norm, nn.LayerNorm)
    H = torch.randn(B, S, n, C, dtype=torch.float64)
    matrix = torch.zeros(B, S, n + 1, n + 1, dtype=torch.float64)
    matrix[..., 0, 1:] = topology.static_beta
    matrix[..., 1:, :] = topology.static_alpha
    if dynamic:
        h = topology.norm(H)
        matrix[..., 0, 1:] += topology.beta_scale * torch.tanh(h @ topology.dynamic_beta)
        matrix[..., 1:, :] += topology.alpha_scale * torch.tanh(h @ topology.dynamic_alpha)
    h_0 = torch.einsum("bsi,bsic->bsc", matrix[..., 1:, 0], H)
    rows = torch.cat([torch.cos(h_0)[..., None, :], H], -2)
    expected = torch.einsum("bsit,bsic->bstc", matrix[..., :, 1:], rows)
    assert relative_error(topology(H, torch.cos), expected) < FP64
    carry = topology.aggregate(H)[1]
    assert relative_error(topology.mixing(carry), matrix[..., 1:, 1:].mT) < FP64
    upstream = random_like(expected)
    parameters = list(topology.parameters())
    actual = torch.autograd.grad(topology(H, torch.cos), parameters, upstream)
    wanted = torch.autograd.grad(expected, parameters, upstream)
    assert all(relative_error(a, e) < 10 * FP64 for a, e in zip(actual, wanted, strict=True))
