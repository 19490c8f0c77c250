"""mHC-lite, KromHC, the identity: their equations token by token, sums that are 1 by construction, where they start."""

import itertools
import math
from functools import partial

import pytest
import torch
from helpers import FP64, assert_close, outputs_and_gradients, random_like, randomise, relative_error, with_weights
from models import language_model, observed, tokens, train

from mhc import (
    BirkhoffHyperConnection,
    IdentityHyperConnection,
    KroneckerHyperConnection,
    ManifoldHyperConnection,
    PermutationHyperConnection,
    Residual,
)

C = 6
SIZES = (
    [(PermutationHyperConnection, n) for n in (1, 2, 3, 4, 5)]
    + [(KroneckerHyperConnection, n) for n in (1, 2, 4, 8)]
    + [(IdentityHyperConnection, n) for n in (1, 3)]
)
BOTH = [PermutationHyperConnection, KroneckerHyperConnection]


def of_permutations(logits: torch.Tensor, n: int) -> torch.Tensor:
    """One token's H_res: weights times permutation matrices, one by one."""
    weights = logits.exp() / logits.exp().sum()
    eye = torch.eye(n, dtype=logits.dtype)
    return sum(w * eye[list(order)] for w, order in zip(weights, itertools.permutations(range(n)), strict=True))


def of_factors(logits: torch.Tensor, n: int) -> torch.Tensor:
    """One token's H_res by `torch.kron`."""
    result = torch.ones(1, 1, dtype=logits.dtype)
    for stay, swap in logits.unflatten(0, (-1, 2)):
        p = stay.exp() / (stay.exp() + swap.exp())
        result = torch.kron(result, torch.stack([torch.stack([p, 1 - p]), torch.stack([1 - p, p])]))
    assert len(result) == n
    return result


ORACLES = {
    PermutationHyperConnection: of_permutations,
    KroneckerHyperConnection: of_factors,
    IdentityHyperConnection: lambda logits, n: torch.eye(n, dtype=logits.dtype),
}


@pytest.mark.parametrize(("kind", "n"), SIZES)
def test_the_sublayer_and_its_gradients_are_those_of_the_equation(kind, n):
    made = randomise(kind(C, 1, streams=n, norm_eps=1e-6), 0.7)
    weights = {name: parameter.detach().double() for name, parameter in made.named_parameters()}
    weights["alpha"] = torch.tensor([0.9, -0.7, 1.3], dtype=torch.float64)
    state = torch.randn(2, 3, n, C, dtype=torch.float64)
    mixes = n > 1 and kind is not IdentityHyperConnection
    outputs = 3 if mixes else 2  # a constant matrix has no gradient

    def ours(state, **weights):
        topology = with_weights(kind(C, 1, streams=n, norm_eps=1e-6).double(), **weights)
        x, carry = topology.aggregate(state)
        return (x, topology.combine(state, x.tanh(), carry), carry.res)[:outputs]

    def equation(state, phi, alpha, bias):
        reads, writes, matrices = [], [], []
        for token in state.flatten(0, 1):
            v = token.flatten() / (token.square().mean() + 1e-6).sqrt()
            pre, post, res = (v @ phi).split([n, n, phi.shape[1] - 2 * n])
            pre = (alpha[0] * pre + bias[:n]).sigmoid()
            post = 2 * (alpha[1] * post + bias[n : 2 * n]).sigmoid()
            matrices.append(ORACLES[kind](alpha[2] * res + bias[2 * n :], n))
            reads.append(pre @ token)
            writes.append(matrices[-1] @ token + post[:, None] * reads[-1].tanh())
        return [torch.stack(found).unflatten(0, (2, 3)) for found in (reads, writes, matrices)[:outputs]]

    arguments = {"state": state} | weights
    found = outputs_and_gradients(lambda *given: ours(**dict(zip(arguments, given, strict=True))), arguments)
    wanted = outputs_and_gradients(lambda *given: equation(**dict(zip(arguments, given, strict=True))), arguments)
    if not mixes:  # what is zero up to roundings has no relative error
        for name in ("d_phi", "d_bias"):
            found[name], wanted[name] = found[name][..., : 2 * n], wanted[name][..., : 2 * n]
        found["d_alpha"], wanted["d_alpha"] = found["d_alpha"][:2], wanted["d_alpha"][:2]
    assert_close(found, wanted, FP64)


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize(("kind", "n"), SIZES)
def test_rows_and_columns_sum_to_one_whatever_the_logits(kind, n, scale):
    topology = kind(C, streams=n)
    res = topology.matrix(scale * torch.randn(500, topology.logits))
    assert res.shape == (500, n, n)
    assert (res >= 0).all()
    for dim in (-1, -2):
        assert (res.sum(dim) - 1).abs().max() < 1e-6
    composite = torch.linalg.multi_dot(list(res[:96].double()))
    assert (composite.sum(-1) - 1).abs().max() < 1e-5
    assert (composite.sum(-2) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("kind", BOTH)
def test_sums_are_one_where_products_are_of_low_precision(kind):
    topology = kind(C)
    logits = torch.randn(500, topology.logits, requires_grad=True)
    exact = topology.matrix(logits)
    (wanted,) = torch.autograd.grad(exact, logits, random_like(exact))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            res = topology.matrix(logits)
            (found,) = torch.autograd.grad(res, logits, random_like(res))
    finally:
        torch.set_float32_matmul_precision(before)
    assert res.dtype == torch.float32
    assert max((res.sum(dim) - 1).abs().max() for dim in (-1, -2)) < 1e-6
    assert relative_error(found, wanted) < 1e-6


def test_two_permutations_are_one_factor():
    logits = torch.randn(50, 2, dtype=torch.float64)
    lite = PermutationHyperConnection(C, streams=2).double().matrix(logits)
    torch.testing.assert_close(lite, KroneckerHyperConnection(C, streams=2).matrix(logits))


def test_the_identity_is_mhc_without_res():
    held = randomise(ManifoldHyperConnection(C, 2, res=False), 0.5)
    topology = IdentityHyperConnection(C, 2)
    with torch.no_grad():
        topology.phi.copy_(held.phi[:, :8])
        topology.bias.copy_(held.bias[:8])
        topology.alpha.copy_(held.alpha)
    state = torch.randn(2, 3, 4, C)
    for found, wanted in zip(topology.coefficients(state), held.coefficients(state), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("index", [0, 3, 6])
@pytest.mark.parametrize(("kind", "n"), SIZES)
def test_residual_start_is_mhcs(kind, n, index):
    x = torch.randn(2, n, C)
    pre, post, res = kind(C, index, streams=n).coefficients(x)
    wanted = ManifoldHyperConnection(C, index, streams=n).coefficients(x)
    torch.testing.assert_close(pre, wanted.pre, atol=1e-6, rtol=0)
    assert torch.equal(post, wanted.post)
    if kind is IdentityHyperConnection:
        assert torch.equal(res, torch.eye(n).expand_as(res))
        return
    torch.testing.assert_close(res.diagonal(0, -2, -1), wanted.res.diagonal(0, -2, -1), atol=1e-6, rtol=0)
    if kind is PermutationHyperConnection:  # all streams alike, as in mHC
        torch.testing.assert_close(res, wanted.res, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", BOTH)
def test_identity_start_is_mhc_lites(kind):
    topology = kind(C, 2, init="identity")
    pre, post, res = topology.coefficients(torch.randn(1, 4, C))
    signs = torch.tensor([-1.0, -1.0, 1.0, -1.0])
    torch.testing.assert_close(pre[0], signs.sigmoid())
    torch.testing.assert_close(post[0], 2 * signs.sigmoid())
    logits = topology.bias[8:].tolist()
    assert logits == ([0.0] + [-8.0] * 23 if kind is PermutationHyperConnection else [0.0, -8.0] * 2)
    away = 1 - res[0].diagonal()
    most = 18 * math.exp(-8) if kind is PermutationHyperConnection else 2 * math.exp(-8)
    assert (away > 0).all()
    assert (away < most * 1.01).all()
    assert not topology.phi.any()
    assert topology.alpha.tolist() == pytest.approx([0.01] * 3)


@pytest.mark.parametrize(("kind", "n"), SIZES)
def test_the_trunk_starts_as_the_plain_one(kind, n):
    plain, other = language_model(Residual, depth=4), language_model(partial(kind, streams=n), depth=4)
    other.load_state_dict(plain.state_dict(), strict=False)
    assert relative_error(other(tokens()), plain(tokens())) < 5e-6


@pytest.mark.parametrize("kind", BOTH)
def test_streams_part_h_res_moves_and_the_task_is_learned(kind):
    model = language_model(kind)
    before = [mixing for _, mixing in observed(model, tokens())]
    assert train(model, 100) < 1.0
    after = observed(model, tokens())
    state = after[-1][0]
    assert relative_error(state, state.mean(-2, keepdim=True).expand_as(state)) > 1e-3
    moved = [float((b - a).abs().max()) for a, (_, b) in zip(before, after, strict=True)]
    # the first sublayer sees copies, and behind the last one comes the mean: matrices whose columns sum to 1 keep both
    assert max(moved[0], moved[-1]) < 0.1 * min(moved[1:-1]), moved  # what Adam makes of roundings
    assert min(moved[1:-1]) > 0.01, moved
    for _, mixing in after:
        assert (mixing.sum(-2) - 1).abs().max() < 1e-6


def test_parameters_are_as_many_as_documented():
    shapes = {kind: {name: tuple(parameter.shape) for name, parameter in kind(C).named_parameters()} for kind in BOTH}
    assert shapes[PermutationHyperConnection] == {"phi": (24, 8 + 24), "alpha": (3,), "bias": (32,)}
    assert shapes[KroneckerHyperConnection] == {"phi": (24, 8 + 4), "alpha": (3,), "bias": (12,)}
    assert IdentityHyperConnection(C).phi.shape == (24, 8)


@pytest.mark.parametrize(
    ("kind", "arguments", "named"),
    [
        (PermutationHyperConnection, {"streams": 6}, "streams must be one of 1, 2, 3, 4, 5, got 6"),
        (PermutationHyperConnection, {"streams": 0}, "streams"),
        (KroneckerHyperConnection, {"streams": 3}, "streams must be one of 1, 2, 4, 8, got 3"),
        (KroneckerHyperConnection, {"width": 0}, "width"),
        (PermutationHyperConnection, {"norm_eps": 0.0}, "norm_eps"),
        (KroneckerHyperConnection, {"init": "uniform"}, "init must be 'residual' or 'identity'"),
    ],
)
def test_a_wrong_argument_is_named(kind, arguments, named):
    with pytest.raises(ValueError, match=named):
        kind(**({"width": C} | arguments))


def test_it_is_no_topology_by_itself():
    with pytest.raises(TypeError, match="abstract"):
        BirkhoffHyperConnection(C)
