"""Sinkhorn forward and backward against finite differences and an autograd oracle in fp64."""

import oracles
import pytest
import torch
from helpers import FP64, assert_close, outputs_and_gradients, random_like, relative_error

from kernels import sinkhorn

EPS = (0.0, 1e-6, 1e-2)


@pytest.mark.parametrize("eps", EPS)
@pytest.mark.parametrize("last", ["rows", "columns"])
@pytest.mark.parametrize("n", range(1, 9))
def test_backward_agrees_with_finite_differences(n, last, eps):
    logits = torch.randn(2, n, n, dtype=torch.float64, requires_grad=True)
    upstream = random_like(logits)  # with one of ones the true gradient is all but 0, and anything passes
    # four normalisations, so that the truncated iteration is far from its limit
    assert torch.autograd.gradcheck(lambda x: sinkhorn(x, steps=4, last=last, eps=eps) * upstream, logits)


@pytest.mark.parametrize("eps", EPS)
@pytest.mark.parametrize("last", ["rows", "columns"])
@pytest.mark.parametrize("steps", [1, 2, 20])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_equals_the_oracle_in_fp64(n, steps, last, eps):
    options = {"steps": steps, "last": last, "eps": eps}
    arguments = {"logits": 3 * torch.randn(3, 5, n, n, dtype=torch.float64)}
    actual = outputs_and_gradients(lambda x: sinkhorn(x, **options), arguments)
    expected = outputs_and_gradients(lambda x: oracles.sinkhorn(x, **options), arguments)
    if n == 1:  # the gradient of a constant, or of nearly one: a relative error of it says nothing
        torch.testing.assert_close(actual, expected, rtol=0, atol=FP64)
    else:
        assert_close(actual, expected, FP64)


@pytest.mark.parametrize("last", ["rows", "columns"])
def test_logarithms_and_scalings_agree_where_both_hold(last):
    # one wide matrix takes the whole call to logarithms; the narrow ones must not notice
    narrow = 3 * torch.randn(7, 4, 4, dtype=torch.float64)
    wide = torch.zeros(1, 4, 4, dtype=torch.float64).index_fill(-1, torch.tensor([2]), 70.0)
    alone = outputs_and_gradients(lambda x: sinkhorn(x, last=last), {"logits": narrow})
    among = outputs_and_gradients(lambda x: sinkhorn(torch.cat([x, wide]), last=last)[:7], {"logits": narrow})
    assert_close(among, alone, FP64)


@pytest.mark.parametrize("eps", EPS)
@pytest.mark.parametrize("sigma", [0.1, 1.0, 2.0, 4.0, 6.0])
def test_fp32_is_at_most_twice_as_wrong_as_autograd_in_fp32(impl, sigma, eps):
    arguments = {"logits": sigma * torch.randn(2048, 4, 4)}
    truth = outputs_and_gradients(lambda x: oracles.sinkhorn(x, eps=eps), arguments, torch.float64)
    plain = outputs_and_gradients(lambda x: oracles.sinkhorn(x, eps=eps), arguments)
    actual = outputs_and_gradients(lambda x: sinkhorn(x, eps=eps, impl=impl), arguments)
    for name in truth:
        assert relative_error(actual[name], truth[name]) <= 2 * relative_error(plain[name], truth[name]), name


@pytest.mark.parametrize("count", [1, 15, 16, 17, 63, 129])
def test_odd_counts_of_matrices(impl, count):
    arguments = {"logits": torch.randn(count, 3, 3)}
    expected = outputs_and_gradients(oracles.sinkhorn, arguments, torch.float64)
    assert_close(outputs_and_gradients(lambda x: sinkhorn(x, impl=impl), arguments), expected, 1e-6)


@pytest.mark.parametrize("last", ["rows", "columns"])
def test_no_matrices_and_any_leading_dimensions(impl, last):
    for leading in [(), (0,), (2, 0, 3), (1,), (2, 1, 3)]:
        logits = torch.randn(*leading, 4, 4, requires_grad=True)
        result = sinkhorn(logits, last=last, impl=impl)
        result.sum().backward()
        assert result.shape == logits.shape == logits.grad.shape
        expected = oracles.sinkhorn(logits.detach().double(), last=last)
        assert relative_error(result, expected) < 1e-6


def test_views_give_what_their_copies_give(impl):
    base = torch.randn(4, 6, 4)
    for view in (
        base.permute(1, 0, 2),
        base.permute(1, 2, 0),
        base[:, :1, :].expand(4, 4, 4),
        base[::2, ::3][:, :, None].expand(2, 2, 4, 4),
    ):
        arguments = {"logits": view}
        actual = sinkhorn(view, impl=impl)
        assert relative_error(actual, sinkhorn(view.contiguous(), impl=impl)) == 0.0, arguments
        expanded = view.detach().requires_grad_()
        upstream = random_like(actual.transpose(-1, -2)).transpose(-1, -2)  # an upstream that is a view, too
        (gradient,) = torch.autograd.grad(sinkhorn(expanded, impl=impl), expanded, upstream)
        copy = view.contiguous().requires_grad_()
        (expected,) = torch.autograd.grad(sinkhorn(copy, impl=impl), copy, upstream.contiguous())
        assert relative_error(gradient, expected) < 1e-6


def test_low_precision_is_computed_in_fp32(impl):
    for dtype in (torch.bfloat16, torch.float16):
        logits = (3 * torch.randn(64, 4, 4)).to(dtype)
        result = sinkhorn(logits, impl=impl)
        assert result.dtype == dtype
        assert torch.equal(result, sinkhorn(logits.float(), impl=impl).to(dtype))
        (gradient,) = torch.autograd.grad(sinkhorn(leaf := logits.clone().requires_grad_(), impl=impl), leaf, logits)
        wide = logits.float().requires_grad_()
        (expected,) = torch.autograd.grad(sinkhorn(wide, impl=impl), wide, logits.float())
        assert gradient.dtype == dtype
        assert torch.equal(gradient, expected.to(dtype))
