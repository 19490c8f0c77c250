"""Sinkhorn stays finite and right far beyond the range of fp32 probabilities."""

import oracles
import pytest
import torch
from helpers import outputs_and_gradients

from kernels import sinkhorn

TOLERANCE = 1e-4  # absolute, on entries of at most 1 and gradients of upstreams of about 1


def matrices(kind: str, scale: float, n: int) -> torch.Tensor:
    if kind == "uniform":
        return scale * (2 * torch.rand(128, n, n) - 1)
    if kind == "signs":  # ties and whole rows out of reach
        return scale * torch.randint(-1, 2, (128, n, n)).float()
    triangle = torch.where(torch.ones(n, n).triu().bool(), 0.0, -2 * scale)  # no doubly stochastic limit inside
    return triangle + 0.1 * torch.rand(128, n, n)


@pytest.mark.parametrize("eps", [0.0, 1e-20, 1e-6, 1e-2])
@pytest.mark.parametrize("last", ["rows", "columns"])
@pytest.mark.parametrize("kind", ["uniform", "signs", "triangle"])
def test_outputs_and_gradients_are_finite_and_right_up_to_1e4(impl, kind, last, eps):
    # 29.9 is the last scale inside the spread of 60 that probabilities can hold, 30.1 the first outside
    for scale in (10.0, 29.9, 30.1, 48.0, 100.0, 1e3, 1e4):
        for n in (2, 4, 8):
            arguments = {"logits": matrices(kind, scale, n)}
            actual = outputs_and_gradients(lambda x: sinkhorn(x, last=last, eps=eps, impl=impl), arguments)
            expected = outputs_and_gradients(
                lambda x: oracles.sinkhorn(x, last=last, eps=eps), arguments, torch.float64
            )
            for name in expected:
                assert torch.isfinite(actual[name]).all(), (scale, n, name)
                assert (actual[name] - expected[name]).abs().max() < TOLERANCE, (scale, n, name)


def test_many_steps_do_not_overflow_the_scalings(impl):
    # the scalings of a matrix without a limit grow with every step
    arguments = {"logits": matrices("triangle", 29.9, 8)}
    actual = outputs_and_gradients(lambda x: sinkhorn(x, steps=500, impl=impl), arguments)
    expected = outputs_and_gradients(lambda x: oracles.sinkhorn(x, steps=500), arguments, torch.float64)
    for name in expected:
        assert (actual[name] - expected[name]).abs().max() < TOLERANCE, name


def test_a_constant_added_to_a_row_or_column_changes_nothing(impl):
    # a row, with columns normalised first: only the limit is the same; a column: every step is
    logits = torch.randn(32, 4, 4)
    shift = 1e3 * torch.randn(32, 1, 4)
    actual = sinkhorn(logits + shift, impl=impl)
    # the sum rounds the logits by 1e3 * 6e-8
    assert (actual - sinkhorn(logits, impl=impl)).abs().max() < 1e-3
    # columns first: the shift of a column is gone after the first normalisation
    both = logits.double() + shift.double()
    assert (sinkhorn(both) - sinkhorn(logits.double())).abs().max() < 1e-10
