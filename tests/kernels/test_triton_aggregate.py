"""The fused `aggregate`, held to twice the error of the plain one."""

import math

import oracles
import pytest
import torch
from fused_cases import DEVICE, PAIRS, assert_within_twice, needs_triton, poisoned  # noqa: F401
from helpers import gradients, leaves, relative_error

from kernels import aggregate
from kernels.aggregate import reference

pytestmark = [pytest.mark.gpu, needs_triton, pytest.mark.usefixtures("poisoned")]


def fused(x, pre):
    return aggregate(x, pre, impl="triton")


def inputs(tokens, n, width, dtype):
    return {"x": torch.randn(tokens, n, width).to(dtype), "pre": torch.randn(tokens, n)}


@pytest.mark.parametrize(("tokens", "n", "width", "dtype"), PAIRS)
def test_twice_the_error_of_the_plain_version(tokens, n, width, dtype):
    assert_within_twice(fused, reference.aggregate, oracles.aggregate, inputs(tokens, n, width, dtype))


@pytest.mark.parametrize("n", [1, 5, 6, 7])
def test_any_number_of_streams(n):
    assert_within_twice(fused, reference.aggregate, oracles.aggregate, inputs(7, n, 33, torch.float32))


@pytest.mark.parametrize("leading", [(), (3,), (2, 5), (2, 3, 2), (0,), (2, 0)])
def test_any_leading_dimensions(leading):
    x, pre = leaves(torch.randn(*leading, 4, 9, device=DEVICE), torch.randn(*leading, 4, device=DEVICE))
    z = fused(x, pre)
    assert z.shape == (*leading, 9)
    found, expected = gradients(z, [x, pre]), gradients(oracles.aggregate(x, pre), [x, pre])
    assert all(relative_error(a, e) < 1e-6 for a, e in zip(found, expected, strict=True))


def test_strides_are_taken_as_they_come():
    def read(operation, x, pre):
        return operation(x.permute(3, 1, 0, 2), pre.transpose(0, 1)[..., ::2]).transpose(0, 2)

    arguments = {"x": torch.randn(4, 5, 17, 3), "pre": torch.randn(5, 3, 8)}
    assert_within_twice(
        lambda *a: read(fused, *a), lambda *a: read(reference.aggregate, *a), lambda *a: read(oracles.aggregate, *a),
        arguments,
    )  # fmt: skip


def test_copies_that_share_their_memory():
    token, pre = leaves(torch.randn(2, 5, 33, device=DEVICE), torch.randn(2, 5, 4, device=DEVICE))
    streams = token.unsqueeze(-2).expand(2, 5, 4, 33)
    found = gradients(fused(streams, pre), [token, pre])
    expected = gradients(oracles.aggregate(streams, pre), [token, pre])
    assert all(relative_error(a, e) < 1e-6 for a, e in zip(found, expected, strict=True))


def test_the_compiler_sees_it_and_torch_checks_it():
    from kernels.aggregate import triton

    x, pre = leaves(torch.randn(1, 6, 3, 20, device=DEVICE), torch.randn(1, 6, 3, device=DEVICE))
    torch.library.opcheck(triton._forward, (x, pre))
    torch.library.opcheck(triton._backward, (torch.randn(1, 6, 20, device=DEVICE), x.detach(), pre.detach()))
    backend = "inductor" if DEVICE == "cuda" else "aot_eager"
    compiled = torch.compile(fused, fullgraph=True, backend=backend)
    for a, e in zip(gradients(compiled(x, pre), [x, pre]), gradients(fused(x, pre), [x, pre]), strict=True):
        assert relative_error(a, e) < 1e-6


def test_flops_are_counted():
    from torch.utils.flop_counter import FlopCounterMode

    x, pre = leaves(torch.randn(6, 3, 20, device=DEVICE), torch.randn(6, 3, device=DEVICE))
    with FlopCounterMode(display=False) as counter:
        fused(x, pre).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * math.prod(x.shape)


def test_the_comparison_notices_a_gradient_of_zeros_and_a_block_that_was_skipped():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z, skipped):
            ctx.skipped = skipped
            return torch.cat([z[:-1], torch.zeros_like(z[-1:])]) if skipped else z.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient if ctx.skipped else torch.zeros_like(gradient), None

    for skipped in (True, False):
        with pytest.raises(AssertionError, match="twice the error"):
            assert_within_twice(
                lambda x, pre, skipped=skipped: Broken.apply(fused(x, pre), skipped),
                reference.aggregate, oracles.aggregate, inputs(7, 4, 9, torch.float32),
            )  # fmt: skip
