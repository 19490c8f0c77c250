"""A wrong argument is refused by name before anything runs; an implementation that is asked for runs or raises."""

from functools import partial

import pytest
import torch
from helpers import random_like

from kernels import aggregate, combine, hyper_coefficients, registration, sinkhorn

X, Y, PRE, RES = torch.randn(2, 3, 5), torch.randn(2, 5), torch.randn(2, 3), torch.randn(2, 3, 3)
PHI, ALPHA, BIAS = torch.randn(15, 15), torch.ones(3), torch.zeros(15)
CALLS = {
    "sinkhorn": partial(sinkhorn, RES),
    "hyper_coefficients": partial(hyper_coefficients, X, PHI, ALPHA, BIAS),
    "aggregate": partial(aggregate, X, PRE),
    "combine": partial(combine, X, Y, PRE, RES),
}
WHOLE = torch.zeros(2, 3, 3, dtype=torch.int64)


@pytest.mark.parametrize("operation", CALLS)
def test_triton_that_cannot_run_raises_and_an_unknown_implementation_is_named(operation, monkeypatch):
    CALLS[operation](impl="auto")
    monkeypatch.setattr(registration, "_INTERPRETED", False)
    with pytest.raises(RuntimeError, match=f"{operation}: impl='triton' .*(cpu|installed)"):
        CALLS[operation](impl="triton")
    with pytest.raises(ValueError, match=f"{operation}: impl .*'fast'"):
        CALLS[operation](impl="fast")


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: sinkhorn(torch.randn(3)), "logits"),
        (lambda: sinkhorn(torch.randn(2, 3, 4)), "logits"),
        (lambda: sinkhorn(torch.randn(9, 9)), "logits"),
        (lambda: sinkhorn(torch.randn(2, 0, 0)), "logits"),
        (lambda: sinkhorn(WHOLE), "logits"),
        (lambda: sinkhorn(RES, steps=0), "steps"),
        (lambda: sinkhorn(RES, last="neither"), "last"),
        (lambda: sinkhorn(RES, eps=-1e-6), "eps"),
        (lambda: sinkhorn(RES, eps=float("nan")), "eps"),
        (lambda: aggregate(torch.randn(5), torch.randn(5)), "x"),
        (lambda: aggregate(torch.randn(2, 9, 5), torch.randn(2, 9)), "x"),
        (lambda: aggregate(X, torch.randn(2, 4)), "pre"),
        (lambda: aggregate(X, torch.randn(3)), "pre"),  # no silent broadcast
        (lambda: aggregate(X, torch.ones(2, 3, dtype=torch.int64)), "pre"),
        (lambda: aggregate(X, PRE.to("meta")), "pre"),
        (lambda: combine(X, torch.randn(2, 1), PRE, RES), "y"),
        (lambda: combine(X, Y, torch.randn(3), RES), "post"),
        (lambda: combine(X, Y, PRE, torch.randn(3, 3)), "res"),
        (lambda: combine(X, Y, PRE, WHOLE), "res"),
        (lambda: combine(torch.randn(5), Y, PRE, RES), "x"),
        (lambda: hyper_coefficients(torch.randn(15), PHI, ALPHA, BIAS), "x"),
        (lambda: hyper_coefficients(X, PHI.mT[:-1], ALPHA, BIAS), "phi"),
        (lambda: hyper_coefficients(X, PHI, torch.ones(()), BIAS), "alpha"),
        (lambda: hyper_coefficients(X, PHI, ALPHA, BIAS[:-1]), "bias"),
        (lambda: hyper_coefficients(X, PHI, ALPHA, BIAS, steps=0), "steps"),
        (lambda: hyper_coefficients(X, PHI, ALPHA, BIAS, last="row"), "last"),
        (lambda: hyper_coefficients(X, PHI, ALPHA, BIAS, eps=-1.0), "eps"),
        (lambda: hyper_coefficients(X, PHI, ALPHA, BIAS, norm_eps=0.0), "norm_eps"),
    ],
)
def test_a_wrong_argument_is_named(call, named):
    with pytest.raises(ValueError, match=rf": .*\b{named}\b.* must be .*got"):
        call()


@pytest.mark.parametrize("operation", CALLS)
def test_operations_run_on_the_meta_device(operation):
    call = CALLS[operation]
    meta = [tensor.to("meta").requires_grad_() for tensor in call.args]
    outputs = call.func(*meta)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    assert all(output.is_meta for output in outputs)
    sum(output.sum() for output in outputs).backward()
    assert all(tensor.grad.shape == tensor.shape for tensor in meta)


def test_operations_compile_as_one_graph():
    def sublayer(x, y, phi, alpha, bias):
        pre, post, res = hyper_coefficients(x, phi, alpha, bias)
        return combine(x, y + aggregate(x, pre), post, res)

    compiled = torch.compile(sublayer, fullgraph=True, backend="aot_eager")
    arguments = [tensor.clone().requires_grad_() for tensor in (X, Y, PHI, ALPHA, BIAS)]
    actual, expected = compiled(*arguments), sublayer(*arguments)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn_like(X)
    for a, b in zip(
        torch.autograd.grad(actual, arguments, upstream),
        torch.autograd.grad(expected, arguments, upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("operation", CALLS)
def test_a_backward_under_autocast_is_not_cast(operation):
    # not recommended, and common: loss.backward() inside the autocast of the forward
    inputs = [tensor.clone().requires_grad_() for tensor in CALLS[operation].args]
    with torch.autocast("cpu", torch.bfloat16):
        outputs = CALLS[operation].func(*inputs)
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        upstreams = [random_like(output) for output in outputs]
        inside = torch.autograd.grad(outputs, inputs, upstreams, retain_graph=True)
    outside = torch.autograd.grad(outputs, inputs, upstreams)
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))
