"""Reading the streams, against an einsum in fp64."""

import oracles
import pytest
import torch
from helpers import FP32, FP64, assert_close, gradients, leaves, outputs_and_gradients, random_like, relative_error

from kernels import aggregate


@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3), (2, 1, 3, 2)])
@pytest.mark.parametrize(("n", "width"), [(1, 1), (4, 63), (3, 5), (8, 16)])
def test_equals_the_oracle_with_every_gradient(leading, n, width):
    arguments = {
        "x": torch.randn(*leading, n, width, dtype=torch.float64),
        "pre": torch.randn(*leading, n, dtype=torch.float64),
    }
    assert_close(outputs_and_gradients(aggregate, arguments), outputs_and_gradients(oracles.aggregate, arguments), FP64)
    fp32 = {name: tensor.float() for name, tensor in arguments.items()}
    expected = outputs_and_gradients(oracles.aggregate, fp32, torch.float64)
    assert_close(outputs_and_gradients(aggregate, fp32), expected, FP32)


@pytest.mark.parametrize("leading", [(0,), (2, 0, 3)])
def test_no_tokens(leading):
    x, pre = leaves(torch.randn(*leading, 4, 5), torch.randn(*leading, 4))
    z = aggregate(x, pre)
    assert z.shape == (*leading, 5)
    z.sum().backward()
    assert x.grad.shape == x.shape
    assert pre.grad.shape == pre.shape


def test_expanded_streams_and_strided_weights():
    def read(operation, token, weights):
        copies = token[..., None, :].expand(2, 3, 4, 7)
        return operation(copies, weights.transpose(0, 1)[..., ::2])

    arguments = {
        "token": torch.randn(2, 3, 7, dtype=torch.float64),
        "weights": torch.randn(3, 2, 8, dtype=torch.float64),
    }
    expected = outputs_and_gradients(lambda *a: read(oracles.aggregate, *a), arguments)
    assert_close(outputs_and_gradients(lambda *a: read(aggregate, *a), arguments), expected, FP64)


def test_streams_and_upstreams_in_any_memory_order():
    x = torch.randn(4, 7, 2, 3, dtype=torch.float64).permute(2, 3, 0, 1).requires_grad_()
    pre = torch.randn(2, 3, 4, dtype=torch.float64)
    upstream = torch.randn(7, 3, 2, dtype=torch.float64).permute(2, 1, 0)
    actual, expected = aggregate(x, pre), oracles.aggregate(x, pre)
    assert relative_error(actual, expected) < FP64
    (d_actual,), (d_expected,) = (torch.autograd.grad(z, x, upstream) for z in (actual, expected))
    assert relative_error(d_actual, d_expected) < FP64


def test_bf16_streams_are_read_in_fp32():
    x, pre = torch.randn(50, 4, 33).bfloat16(), torch.randn(50, 4)
    z = aggregate(x, pre)
    assert z.dtype == torch.bfloat16
    assert torch.equal(z, aggregate(x.float(), pre).bfloat16())
    inputs = leaves(x, pre)
    d_x, d_pre = gradients(aggregate(*inputs), inputs)
    assert (d_x.dtype, d_pre.dtype) == (torch.bfloat16, torch.float32)
    wide = leaves(x.double(), pre.double())
    expected = torch.autograd.grad(oracles.aggregate(*wide), wide, random_like(z).double())
    assert relative_error(d_pre, expected[1]) < FP32  # no bf16 between the upstream and a coefficient
    assert relative_error(d_x, expected[0]) < 2**-8  # rounded once


def test_only_the_gradients_asked_for_are_made():
    x, pre = torch.randn(3, 4, 5), torch.randn(3, 4)
    for asked in ("x", "pre"):
        inputs = {"x": x.clone(), "pre": pre.clone()}
        inputs[asked].requires_grad_()
        aggregate(**inputs).sum().backward()
        assert {name for name, tensor in inputs.items() if tensor.grad is not None} == {asked}
