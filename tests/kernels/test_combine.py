"""Writing the streams, against an einsum in fp64."""

import oracles
import pytest
import torch
from helpers import FP32, FP64, assert_close, gradients, leaves, outputs_and_gradients, random_like, relative_error

from kernels import combine


def inputs_of(leading: tuple[int, ...], n: int, width: int) -> dict[str, torch.Tensor]:
    shapes = {"x": (n, width), "y": (width,), "post": (n,), "res": (n, n)}
    return {name: torch.randn(*leading, *shape, dtype=torch.float64) for name, shape in shapes.items()}


@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3), (2, 1, 3, 2)])
@pytest.mark.parametrize(("n", "width"), [(1, 1), (4, 63), (3, 5), (8, 16)])
def test_equals_the_oracle_with_every_gradient(leading, n, width):
    arguments = inputs_of(leading, n, width)
    assert_close(outputs_and_gradients(combine, arguments), outputs_and_gradients(oracles.combine, arguments), FP64)
    fp32 = {name: tensor.float() for name, tensor in arguments.items()}
    expected = outputs_and_gradients(oracles.combine, fp32, torch.float64)
    assert_close(outputs_and_gradients(combine, fp32), expected, FP32)


def test_res_is_read_as_out_in():
    x = torch.eye(3, dtype=torch.float64)[None]
    res = torch.zeros(1, 3, 3, dtype=torch.float64)
    res[0, 2, 1] = 1.0  # from stream 1 to stream 2
    result = combine(x, torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64), res)
    assert torch.equal(result[0, 2], x[0, 1])
    assert not result[0, :2].any()


@pytest.mark.parametrize("leading", [(0,), (2, 0, 3)])
def test_no_tokens(leading):
    inputs = leaves(*inputs_of(leading, 4, 5).values())
    result = combine(*inputs)
    assert result.shape == inputs[0].shape
    result.sum().backward()
    assert [leaf.grad.shape for leaf in inputs] == [leaf.shape for leaf in inputs]


def test_expanded_states_and_matrices_shared_by_all_tokens():
    # what the first sublayer of a trunk and a static hyper-connection hand over
    arguments = inputs_of((2, 3), 4, 7) | {
        "x": torch.randn(2, 3, 7, dtype=torch.float64),
        "post": torch.randn(4, dtype=torch.float64),
        "res": torch.randn(4, 4, dtype=torch.float64),
    }

    def write(operation, x, y, post, res):
        copies = x[..., None, :].expand(2, 3, 4, 7)
        return operation(copies, y, post.expand(2, 3, 4), res.mT.expand(2, 3, 4, 4))

    expected = outputs_and_gradients(lambda *a: write(oracles.combine, *a), arguments)
    assert_close(outputs_and_gradients(lambda *a: write(combine, *a), arguments), expected, FP64)


def test_strided_inputs_and_upstream():
    arguments = inputs_of((4, 6), 4, 8)
    strided = {name: tensor.transpose(0, 1)[::2] for name, tensor in arguments.items()}
    inputs = leaves(*arguments.values())
    views = [leaf.transpose(0, 1)[::2] for leaf in inputs]
    result = combine(*views)
    assert relative_error(result, oracles.combine(*strided.values())) < FP64
    upstream = random_like(result.transpose(-1, -2)).transpose(-1, -2)
    actual = torch.autograd.grad(result, inputs, upstream)
    again = leaves(*arguments.values())
    expected = torch.autograd.grad(oracles.combine(*(leaf.transpose(0, 1)[::2] for leaf in again)), again, upstream)
    assert all(relative_error(a, e) < FP64 for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("y_dtype", [torch.bfloat16, torch.float32])
def test_bf16_streams_are_written_in_fp32(y_dtype):
    arguments = inputs_of((50,), 4, 33)
    x, y = arguments["x"].bfloat16(), arguments["y"].to(y_dtype)
    post, res = arguments["post"].float(), arguments["res"].float()
    result = combine(x, y, post, res)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, combine(x.float(), y.float(), post, res).bfloat16())
    inputs = leaves(x, y, post, res)
    actual = gradients(combine(*inputs), inputs)
    assert [g.dtype for g in actual] == [leaf.dtype for leaf in inputs]
    wide = [leaf.detach().double().requires_grad_() for leaf in inputs]
    expected = torch.autograd.grad(oracles.combine(*wide), wide, random_like(result).double())
    rounded = [2**-8, 2**-8 if y_dtype == torch.bfloat16 else FP32, FP32, FP32]  # bf16 results are rounded once
    for name, a, e, tolerance in zip(arguments, actual, expected, rounded, strict=True):
        assert relative_error(a, e) < tolerance, name


def test_only_the_gradients_asked_for_are_made():
    arguments = inputs_of((3,), 4, 5)
    for asked in arguments:
        inputs = {name: tensor.clone().requires_grad_(name == asked) for name, tensor in arguments.items()}
        combine(**inputs).sum().backward()
        assert {name for name, tensor in inputs.items() if tensor.grad is not None} == {asked}
