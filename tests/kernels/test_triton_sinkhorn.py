"""The fused `sinkhorn`, held to twice the error of the plain one; range, odd counts, strides, broken kernels."""

import oracles
import pytest
import torch
from fused_cases import DEVICE, assert_within_twice, needs_triton, poisoned  # noqa: F401
from helpers import gradients, leaves, outputs_and_gradients, relative_error

from kernels import sinkhorn
from kernels.sinkhorn import reference

pytestmark = [pytest.mark.gpu, needs_triton, pytest.mark.usefixtures("poisoned")]

# every pair of counts, sizes, dtypes, directions and eps, but for pairs of the first two in full
CASES = [
    (1, 1, torch.float32, "rows", 0.0),
    (1, 2, torch.bfloat16, "columns", 1e-6),
    (63, 2, torch.float32, "rows", 0.0),
    (500, 2, torch.float16, "columns", 0.0),
    (1, 3, torch.float16, "rows", 1e-6),
    (63, 3, torch.bfloat16, "columns", 0.0),
    (500, 3, torch.float32, "columns", 1e-6),
    (1, 4, torch.float32, "columns", 0.0),
    (63, 4, torch.float16, "rows", 1e-6),
    (500, 4, torch.bfloat16, "rows", 0.0),
    (63, 5, torch.float32, "columns", 1e-2),
    (7, 6, torch.float32, "rows", 1e-6),
    (7, 7, torch.float32, "columns", 0.0),
    (1, 8, torch.bfloat16, "rows", 1e-6),
    (63, 8, torch.float32, "columns", 0.0),
]


def compare(logits, **options):
    """Against the plain version by autograd, operation by operation, in the dtype of the logits."""

    def plain(x):
        return oracles.sinkhorn(x.float(), **options).to(x.dtype)

    assert_within_twice(
        lambda x: sinkhorn(x, impl="triton", **options),
        plain,
        lambda x: oracles.sinkhorn(x, **options),
        {"logits": logits},
    )


@pytest.mark.parametrize(("count", "n", "dtype", "last", "eps"), CASES)
def test_twice_the_error_of_the_plain_version(count, n, dtype, last, eps):
    compare((2 * torch.randn(count, n, n)).to(dtype), last=last, eps=eps)


@pytest.mark.parametrize(("steps", "eps"), [(1, 0.0), (2, 1e-6), (40, 0.0), (40, 1e-6)])
def test_few_steps_and_more_than_are_kept_in_registers(steps, eps):
    compare(torch.randn(9, 4, 4), steps=steps, eps=eps)


def matrices(kind, scale, n):
    if kind == "uniform":
        return scale * (2 * torch.rand(40, n, n) - 1)
    if kind == "signs":  # ties and whole rows out of reach
        return scale * torch.randint(-1, 2, (40, n, n)).float()
    return torch.where(torch.ones(n, n).triu().bool(), 0.0, -2 * scale) + 0.1 * torch.rand(40, n, n)


@pytest.mark.parametrize(
    ("kind", "n", "last", "eps"),
    [
        ("uniform", 4, "rows", 0.0),
        ("signs", 3, "columns", 0.0),
        ("triangle", 2, "rows", 0.0),
        ("uniform", 3, "columns", 1e-6),
        ("signs", 4, "rows", 1e-20),
        ("triangle", 8, "columns", 1e-2),
    ],
)
def test_finite_and_right_up_to_1e4(kind, n, last, eps):
    # probabilities hold to 29.9, logarithms take over from 30.1 where eps is 0
    for scale in (29.9, 30.1, 1e4):
        arguments = {"logits": matrices(kind, scale, n)}
        on_device = {"logits": arguments["logits"].to(DEVICE)}
        found = outputs_and_gradients(lambda x: sinkhorn(x, last=last, eps=eps, impl="triton"), on_device)
        expected = outputs_and_gradients(lambda x: oracles.sinkhorn(x, last=last, eps=eps), arguments, torch.float64)
        for name, tensor in expected.items():
            assert torch.isfinite(found[name]).all(), (scale, name)
            assert (found[name].cpu() - tensor).abs().max() < 1e-4, (scale, name)


def test_a_nan_stays_in_its_own_matrix():
    logits = torch.randn(40, 4, 4, device=DEVICE)
    clean = sinkhorn(logits, impl="triton")
    logits[7, 1, 2] = float("nan")
    result = sinkhorn(logits, impl="triton")
    others = torch.arange(40) != 7
    assert result[7].isnan().any()
    assert relative_error(result[others], clean[others]) < 1e-6


@pytest.mark.parametrize("leading", [(), (0,), (2, 0, 3), (1,), (2, 1, 3)])
def test_any_leading_dimensions(leading):
    (logits,) = leaves(torch.randn(*leading, 4, 4, device=DEVICE))
    result = sinkhorn(logits, impl="triton")
    result.sum().backward()
    assert result.shape == logits.shape == logits.grad.shape
    assert relative_error(result, oracles.sinkhorn(logits)) < 1e-6


@pytest.mark.parametrize("last", ["rows", "columns"])
def test_views_and_upstreams_that_are_views(last):
    def of_view(operation, base):
        return operation(base.permute(1, 2, 0), last=last).transpose(-1, -2)

    compared = {"base": torch.randn(4, 6, 4)}
    assert_within_twice(
        lambda base: of_view(lambda x, **o: sinkhorn(x, impl="triton", **o), base),
        lambda base: of_view(oracles.sinkhorn, base),
        lambda base: of_view(oracles.sinkhorn, base),
        compared,
    )
    (row,) = leaves(torch.randn(5, 1, 4, device=DEVICE))
    found = gradients(sinkhorn(row.expand(5, 4, 4), last=last, impl="triton"), [row])
    expected = gradients(oracles.sinkhorn(row.double().expand(5, 4, 4), last=last), [row])
    assert (found[0] - expected[0]).abs().max() < 1e-5


def test_every_run_gives_the_same_bits():
    inputs = leaves(torch.randn(99, 4, 4, device=DEVICE))
    runs = [
        [result := sinkhorn(*inputs, impl="triton"), *gradients(result, inputs)]
        for _ in range(20 if DEVICE == "cuda" else 2)
    ]
    assert all(torch.equal(a, b) for run in runs for a, b in zip(run, runs[0], strict=True))


@pytest.mark.parametrize("kernel", ["_forward_kernel", "_backward_kernel"])
def test_the_comparison_notices_a_block_that_was_skipped(monkeypatch, kernel):
    from kernels.sinkhorn import triton

    skip_last_block(monkeypatch, triton, kernel)
    with pytest.raises(AssertionError, match="twice the error"):
        compare(torch.randn(130, 4, 4))


def test_the_comparison_notices_a_gradient_of_zeros(monkeypatch):
    from kernels.sinkhorn import triton

    monkeypatch.setattr(triton, "_sinkhorn_backward", lambda gradient, *_: torch.zeros_like(gradient))
    with pytest.raises(AssertionError, match="twice the error"):
        compare(torch.randn(63, 4, 4))


def test_the_reference_serves_as_well_as_the_oracle_here():
    # `compare` measures against autograd; the reference of the operation must agree with it
    logits = 2 * torch.randn(63, 4, 4)
    expected = oracles.sinkhorn(logits.double())
    assert relative_error(reference.sinkhorn(logits, steps=20, last="rows", eps=0.0), expected) < 1e-6


def skip_last_block(monkeypatch, module, name):
    """Launch the kernel of this name in `module` without its last block."""
    plain = module.wrap_triton

    class Shortened:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            if self.kernel is getattr(module, name):
                assert grid[0] > 1
                grid = (grid[0] - 1, *grid[1:])
            return plain(self.kernel)[grid]

    monkeypatch.setattr(module, "wrap_triton", Shortened)
