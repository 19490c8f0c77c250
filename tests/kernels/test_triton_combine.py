"""The fused `combine`, held to twice the error of the plain one."""

import math

import oracles
import pytest
import torch
from fused_cases import DEVICE, PAIRS, assert_within_twice, needs_triton, poisoned  # noqa: F401
from helpers import gradients, leaves, relative_error

from kernels import combine
from kernels.combine import reference

pytestmark = [pytest.mark.gpu, needs_triton, pytest.mark.usefixtures("poisoned")]


def fused(x, y, post, res):
    return combine(x, y, post, res, impl="triton")


def inputs(leading, n, width, dtype=torch.float32):
    shapes = {"x": (n, width), "y": (width,), "post": (n,), "res": (n, n)}
    drawn = {name: torch.randn(*leading, *shape) for name, shape in shapes.items()}
    return drawn | {name: drawn[name].to(dtype) for name in ("x", "y")}


@pytest.mark.parametrize(("tokens", "n", "width", "dtype"), PAIRS)
def test_twice_the_error_of_the_plain_version(tokens, n, width, dtype):
    assert_within_twice(fused, reference.combine, oracles.combine, inputs((tokens,), n, width, dtype))


@pytest.mark.parametrize("n", [1, 5, 6, 7])
def test_any_number_of_streams(n):
    assert_within_twice(fused, reference.combine, oracles.combine, inputs((7,), n, 33))


def test_a_branch_of_another_dtype_than_the_streams():
    arguments = inputs((9,), 4, 33, torch.bfloat16)
    arguments["y"] = arguments["y"].float()
    assert_within_twice(fused, reference.combine, oracles.combine, arguments)


@pytest.mark.parametrize("leading", [(), (3,), (2, 5), (2, 3, 2), (0,), (2, 0)])
def test_any_leading_dimensions(leading):
    arguments = [tensor.to(DEVICE).requires_grad_() for tensor in inputs(leading, 4, 9).values()]
    found, expected = (gradients(operation(*arguments), arguments) for operation in (fused, oracles.combine))
    assert all(relative_error(a, e) < 1e-6 for a, e in zip(found, expected, strict=True))


def test_strides_are_taken_as_they_come():
    def write(operation, x, y, post, res):
        x, y = x.permute(3, 1, 0, 2), y.transpose(0, 2)
        return operation(x, y, post.expand(3, 5, 4), res.mT.expand(3, 5, 4, 4)).transpose(-1, -2)

    arguments = {"x": (4, 5, 17, 3), "y": (17, 5, 3), "post": (4,), "res": (4, 4)}
    arguments = {name: torch.randn(shape) for name, shape in arguments.items()}
    assert_within_twice(
        *(lambda *a, operation=operation: write(operation, *a) for operation in (fused, reference.combine)),
        lambda *a: write(oracles.combine, *a), arguments,
    )  # fmt: skip


def test_copies_that_share_their_memory():
    arguments = inputs((2, 5), 4, 33) | {"x": torch.randn(2, 5, 33)}
    leaf = leaves(*(tensor.to(DEVICE) for tensor in arguments.values()))
    streams = leaf[0].unsqueeze(-2).expand(2, 5, 4, 33)
    found, expected = (gradients(operation(streams, *leaf[1:]), leaf) for operation in (fused, oracles.combine))
    assert all(relative_error(a, e) < 1e-6 for a, e in zip(found, expected, strict=True))


def test_the_compiler_sees_it_and_torch_checks_it():
    from kernels.combine import triton

    arguments = [tensor.to(DEVICE).requires_grad_() for tensor in inputs((1, 6), 3, 20).values()]
    torch.library.opcheck(triton._forward, tuple(arguments))
    upstream = torch.randn(1, 6, 3, 20, device=DEVICE)
    torch.library.opcheck(triton._backward, (upstream, *(leaf.detach() for leaf in arguments)))
    compiled = torch.compile(fused, fullgraph=True, backend="inductor" if DEVICE == "cuda" else "aot_eager")
    found, expected = (gradients(operation(*arguments), arguments) for operation in (compiled, fused))
    assert all(relative_error(a, e) < 1e-6 for a, e in zip(found, expected, strict=True))


def test_flops_are_counted():
    from torch.utils.flop_counter import FlopCounterMode

    arguments = [tensor.to(DEVICE).requires_grad_() for tensor in inputs((6,), 3, 20).values()]
    with FlopCounterMode(display=False) as counter:
        fused(*arguments).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * (3 + 1) * math.prod(arguments[0].shape)


@pytest.mark.parametrize("lost", ["x", "y", "post", "res", "the last token"])
def test_the_comparison_notices_a_gradient_of_zeros_and_a_block_that_was_skipped(lost):
    def broken(x, y, post, res):
        given = {"x": x, "y": y, "post": post, "res": res}
        if lost in given:  # the value without its gradient, but still part of the graph
            given[lost] = given[lost].detach() + 0 * given[lost]
        out = fused(**given)
        return torch.cat([out[:-1], 0 * out[-1:]]) if lost == "the last token" else out

    with pytest.raises(AssertionError, match="twice the error"):
        assert_within_twice(broken, reference.combine, oracles.combine, inputs((7,), 4, 9))
