"""What each `init` of ManifoldHyperConnection is, entry by entry."""

import math

import pytest
import torch

from kernels import registration
from mhc import ManifoldHyperConnection


def start(init: str, n: int, index: int = 0, width: int = 6):
    topology = ManifoldHyperConnection(width, index, streams=n, init=init).double().requires_grad_(False)
    return topology, topology.coefficients(torch.randn(3, n, width, dtype=torch.float64))


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("n", range(2, 9))
def test_residual(n, index):
    topology, (pre, post, res) = start("residual", n, index)
    wanted = torch.full((n,), 0.45 / (n - 1), dtype=torch.float64)
    wanted[index % n] = 0.55
    # biases are kept in fp32
    torch.testing.assert_close(pre, wanted.expand(3, n), atol=1e-7, rtol=0)
    assert torch.equal(post, torch.ones_like(post))
    off = math.exp(-4) / (1 + (n - 1) * math.exp(-4))  # a symmetric matrix is doubly stochastic after one division
    matrix = off + (1 - n * off) * torch.eye(n, dtype=torch.float64)
    torch.testing.assert_close(res, matrix.expand(3, n, n), atol=1e-12, rtol=0)
    assert not topology.phi.any()
    if n == 4:
        assert res[0, 0, 0] == pytest.approx(0.948, abs=1e-3)


def test_residual_with_one_stream():
    _, (pre, post, res) = start("residual", 1)
    assert pre.flatten().tolist() == pytest.approx([logistic(8.0)] * 3)
    assert post.flatten().tolist() == [1.0] * 3
    assert res.flatten().tolist() == [1.0] * 3


@pytest.mark.parametrize("n", [1, 3, 4])
def test_uniform(n):
    topology, _ = start("uniform", n, width=500)
    assert topology.phi.std() == pytest.approx(0.02, rel=0.05)
    topology.alpha.zero_()  # leaves the constant part
    pre, post, res = topology.coefficients(torch.randn(3, n, 500, dtype=torch.float64))
    assert torch.equal(pre, torch.full_like(pre, 0.5))
    assert torch.equal(post, torch.ones_like(post))
    torch.testing.assert_close(res, torch.full_like(res, 1 / n), atol=1e-15, rtol=0)


@pytest.mark.parametrize("index", [0, 3, 5])
def test_identity(index):
    topology, (pre, post, res) = start("identity", 4, index)
    wanted = torch.full((4,), logistic(-1.0), dtype=torch.float64)
    wanted[index % 4] = logistic(1.0)
    torch.testing.assert_close(pre, wanted.expand(3, 4), atol=1e-7, rtol=0)
    torch.testing.assert_close(post, 2 * wanted.expand(3, 4), atol=1e-7, rtol=0)
    off = math.exp(-8) / (1 + 3 * math.exp(-8))
    matrix = off + (1 - 4 * off) * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(res, matrix.expand(3, 4, 4), atol=1e-12, rtol=0)
    assert not topology.phi.any()


@pytest.mark.parametrize("init", ["residual", "uniform", "identity"])
def test_alpha_is_a_hundredth_and_shapes_are_documented(init):
    topology = ManifoldHyperConnection(6, streams=3, init=init)
    assert torch.equal(topology.alpha, torch.full((3,), 0.01))
    shapes = {name: tuple(parameter.shape) for name, parameter in topology.named_parameters()}
    assert shapes == {"phi": (18, 15), "alpha": (3,), "bias": (15,)}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"streams": 0}, "streams"),
        ({"streams": 9}, "streams"),
        ({"width": 0}, "width"),
        ({"sinkhorn_steps": 0}, "steps"),
        ({"last": "both"}, "last"),
        ({"eps": -1.0}, "eps"),
        ({"norm_eps": 0.0}, "norm_eps"),
        ({"init": "zeros"}, "init"),
        ({"impl": "fast"}, "impl"),
    ],
)
def test_a_wrong_argument_is_named_when_the_module_is_built(arguments, named):
    with pytest.raises(ValueError, match=rf"\b{named}\b|_{named}\b"):
        ManifoldHyperConnection(**({"width": 4} | arguments))


def test_triton_is_refused_when_the_module_is_built_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(registration, "_INSTALLED", False)
    with pytest.raises(RuntimeError, match="Triton is not installed"):
        ManifoldHyperConnection(4, impl="triton")
