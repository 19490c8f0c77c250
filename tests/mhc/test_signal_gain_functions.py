"""Signal gain against matrices made by hand, and against what a trunk does to its streams."""

import math
from functools import partial

import pytest
import torch
from helpers import FP64, randomise, relative_error
from torch import nn

from mhc import Context, HyperConnection, ManifoldHyperConnection, Residual, Trunk, signal_gain

A = torch.tensor([[2.0, -3.0], [0.5, 0.25]])  # row sums -1, 0.75; column sums 2.5, -2.75
STOCHASTIC = torch.tensor([[0.75, 0.25], [0.25, 0.75]])


def test_forward_gain_is_the_largest_row_sum_and_backward_gain_the_largest_column_sum():
    assert signal_gain.forward_gain(A).item() == 1.0
    assert signal_gain.backward_gain(A).item() == 2.75
    assert signal_gain.forward_gain(A.mT).item() == 2.75
    assert signal_gain.backward_gain(A.mT).item() == 1.0
    for gain in (signal_gain.forward_gain, signal_gain.backward_gain):
        assert gain(torch.eye(3)).item() == 1.0
        assert gain(STOCHASTIC).item() == 1.0


def test_logarithms_show_attenuation_that_the_largest_sum_hides():
    largest, smallest = signal_gain.log_row_extremes(A)
    assert largest.item() == 0.0
    assert smallest.item() == pytest.approx(math.log(0.75))
    fading = torch.diag(torch.tensor([1.0, 1e-3]))
    assert signal_gain.forward_gain(fading).item() == 1.0
    assert signal_gain.log_row_extremes(fading)[1].item() == pytest.approx(math.log(1e-3))
    assert signal_gain.log_column_error(fading).item() == pytest.approx(-math.log(1e-3))
    assert signal_gain.log_column_error(A).item() == pytest.approx(math.log(2.75))
    assert signal_gain.log_column_error(STOCHASTIC).item() == 0.0


def test_every_token_has_its_own_gain():
    matrices = torch.randn(2, 3, 4, 4)
    for function in (signal_gain.forward_gain, signal_gain.backward_gain, signal_gain.log_column_error):
        gains = function(matrices)
        assert gains.shape == (2, 3)
        assert gains.dtype == torch.float64
        assert gains[1, 2] == function(matrices[1, 2])
    largest, smallest = signal_gain.log_row_extremes(matrices)
    assert largest.shape == smallest.shape == (2, 3)
    assert (largest >= smallest).all()


def test_low_precision_matrices_are_summed_in_fp64():
    assert signal_gain.forward_gain(torch.full((8, 8), 0.125).bfloat16()).item() == 1.0
    exact = torch.eye(2, dtype=torch.float64) * (1 + 1e-12)
    assert signal_gain.forward_gain(exact).item() - 1 == pytest.approx(1e-12, rel=1e-3)


def test_composites_put_later_sublayers_on_the_left():
    first, second, third = (torch.randn(2, 4, 4, dtype=torch.float64) for _ in range(3))
    one, two, three = signal_gain.composites([first, second, third])
    assert torch.equal(one, first)
    assert relative_error(two, second @ first) < FP64
    assert relative_error(three, third @ second @ first) < FP64
    assert relative_error(two, first @ second) > 0.1  # these do not commute: the order is seen


def test_none_is_the_identity():
    products = signal_gain.composites([None, A, None, A, None])
    assert products[0] is None
    assert torch.equal(products[1], A.double())
    assert torch.equal(products[2], A.double())
    assert torch.equal(products[3], A.double() @ A.double())
    assert torch.equal(products[4], products[3])
    assert signal_gain.composites([]) == []
    assert signal_gain.composites([None, None]) == [None, None]


def test_gain_grows_with_depth_unless_matrices_are_doubly_stochastic():
    growing = torch.tensor([[1.0, 0.1], [0.1, 1.0]])
    gains = [signal_gain.forward_gain(product).item() for product in signal_gain.composites([growing] * 60)]
    assert gains == pytest.approx([1.1 ** (k + 1) for k in range(60)], rel=1e-6)
    for function in (signal_gain.forward_gain, signal_gain.backward_gain):
        assert all(function(p).item() == 1.0 for p in signal_gain.composites([STOCHASTIC] * 60))


class Silent(nn.Module):
    def forward(self, x, context=None):
        return torch.zeros_like(x)


def mixings_of(trunk: Trunk, x: torch.Tensor) -> tuple[list, list]:
    mixings, states = [], []

    def observe(index, topology, state, carry):
        mixings.append(topology.mixing(carry))
        states.append(state)

    trunk(x, Context(observe=observe))
    return mixings, states


@pytest.mark.parametrize("kind", [ManifoldHyperConnection, HyperConnection])
def test_the_composite_is_what_a_trunk_of_silent_sublayers_does_to_its_streams(kind):
    depth, width = 5, 6
    trunk = Trunk((Silent() for _ in range(depth)), (kind(width, index) for index in range(depth)))
    randomise(trunk.double(), 0.3)
    expand = trunk.topologies[0].expand
    trunk.topologies[0].expand = lambda x: expand(x) + torch.randn(4, width, dtype=torch.float64)  # not copies
    mixings, states = mixings_of(trunk, torch.randn(2, 3, width, dtype=torch.float64))
    for product, state in zip(signal_gain.composites(mixings[:-1]), states[1:], strict=True):
        assert relative_error(state, product @ states[0]) < FP64


@torch.no_grad()
def test_random_hyper_connections_amplify_and_manifold_ones_do_not():
    x = torch.randn(2, 3, 6)

    def gains(kind) -> tuple[float, float]:
        trunk = Trunk((Silent() for _ in range(24)), (kind(6, index) for index in range(24)))
        product = signal_gain.composites(mixings_of(randomise(trunk, 0.3), x)[0])[-1]
        return float(signal_gain.forward_gain(product).max()), float(signal_gain.backward_gain(product).max())

    assert min(gains(HyperConnection)) > 10
    forward, backward = gains(ManifoldHyperConnection)
    assert forward == pytest.approx(1, abs=1e-5)  # rows are normalised last: roundings of 24 products
    assert backward == pytest.approx(1, abs=0.05)  # columns carry the truncation of 20 steps
    assert gains(partial(ManifoldHyperConnection, res=False)) == (1.0, 1.0)


def test_the_plain_residual_has_no_matrix():
    trunk = Trunk([Silent(), Silent()], [Residual(), Residual()])
    assert signal_gain.composites(mixings_of(trunk, torch.randn(1, 2, 3))[0]) == [None, None]
