"""The boundary between sublayers in one operation, held to twice the error of the operations one after the other."""

import math
from functools import partial

import oracles
import pytest
import torch
from fused_cases import DEVICE, PAIRS, assert_within_twice, needs_triton, poisoned  # noqa: F401
from helpers import FP64, assert_close, gradients, outputs_and_gradients, relative_error

from kernels import aggregate, combine, combine_aggregate, hyper_coefficients
from kernels.combine_aggregate import reference

OPTIONS = {"steps": 20, "last": "rows", "eps": 0.0, "norm_eps": 1e-6}


def inputs(leading, n, width, dtype=torch.float32):
    k = n * (n + 2)
    drawn = {
        "x": torch.randn(*leading, n, width),
        "y": torch.randn(*leading, width),
        "post": 2 * torch.rand(*leading, n),
        "res": torch.rand(*leading, n, n),
        "phi": torch.randn(n * width, k) / math.sqrt(n * width),
        "alpha": torch.randn(3),
        "bias": torch.randn(k),
    }
    return drawn | {name: drawn[name].to(dtype) for name in ("x", "y")}


def exact(x, y, post, res, phi, alpha, bias, **options):
    x_next = oracles.combine(x, y, post, res)
    pre, post, res = oracles.hyper_coefficients(x_next, phi, alpha, bias, **options)
    return x_next, oracles.aggregate(x_next, pre), pre, post, res


def fused(*arguments, joined=False, **options):
    from kernels.combine_aggregate import triton

    return triton.combine_aggregate(*arguments, joined=joined, **{"precision": "tf32", **options})


def compare(arguments, joined=False, precision="tf32", **options):
    options = OPTIONS | options
    assert_within_twice(
        partial(fused, joined=joined, precision=precision, **options),
        partial(reference.combine_aggregate, impl="reference", **options),
        partial(exact, **options),
        arguments,
    )


def test_equals_the_three_operations():
    def one_by_one(x, y, post, res, phi, alpha, bias):
        x_next = combine(x, y, post, res)
        coefficients = hyper_coefficients(x_next, phi, alpha, bias, **OPTIONS)
        return x_next, aggregate(x_next, coefficients.pre), *coefficients

    arguments = {name: tensor.double() for name, tensor in inputs((2, 5), 3, 9).items()}
    found = outputs_and_gradients(partial(combine_aggregate, **OPTIONS), arguments)
    assert_close(found, outputs_and_gradients(one_by_one, arguments), FP64)
    assert_close(found, outputs_and_gradients(partial(exact, **OPTIONS), arguments), 1e-10)


@pytest.mark.gpu
@needs_triton
@pytest.mark.usefixtures("poisoned")
class TestFused:
    @pytest.mark.parametrize(("tokens", "n", "width", "dtype"), PAIRS)
    def test_twice_the_error_of_the_plain_version(self, tokens, n, width, dtype):
        # both forms meet every value of every size over the 16 cases
        compare(inputs((tokens,), n, width, dtype), joined=(tokens + n // 2) % 2 == 0)

    @pytest.mark.parametrize("n", [4, 8])
    def test_the_form_chosen_by_size(self, n):
        compare(inputs((9,), n, 40, torch.bfloat16), joined=None)

    def test_many_tokens_of_narrow_streams_are_joined(self):
        from kernels.combine_aggregate.triton import is_joined

        assert is_joined(16384, 4, 1280, 2)
        assert not is_joined(16384, 4, 4096, 2)  # x' would leave L2 before it is read again
        assert not is_joined(1024, 4, 1280, 2)  # too few programs

    @pytest.mark.parametrize("width", [16, 48, 130])
    @pytest.mark.parametrize("joined", [True, False])
    def test_both_forms_at_the_edges_of_blocks(self, joined, width):
        compare(inputs((129,), 4, width, torch.bfloat16), joined=joined)

    @pytest.mark.parametrize("n", [1, 5, 6, 7])
    def test_any_number_of_streams(self, n):
        compare(inputs((7,), n, 33), joined=n % 2 == 0)

    @pytest.mark.parametrize(
        "options",
        [
            {"last": "columns"},
            {"eps": 1e-6, "steps": 3},
            {"eps": 1e-6, "last": "columns", "steps": 1},
            {"precision": "bf16_split"},
            {"precision": "ieee", "norm_eps": 1e-20},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("joined", [True, False])
    def test_every_option(self, joined, options):
        # bf16 streams: what their halves and TF32 leave out is beneath what bf16 leaves out of x'
        compare(inputs((9,), 3, 40, torch.bfloat16), joined=joined, **options)

    def test_streams_that_share_memory_and_any_order_of_the_rest(self):
        def run(operation, x, y, post, res, *affine):
            x = x.unsqueeze(-2).expand(3, 5, 4, 33)
            x_next, *rest = operation(x, y.transpose(0, 2), post.expand(3, 5, 4), res.mT.expand(3, 5, 4, 4), *affine)
            return x_next.permute(3, 0, 2, 1), *rest

        arguments = inputs((3, 5), 4, 33) | {
            "x": torch.randn(3, 5, 33),
            "y": torch.randn(33, 5, 3),
            "post": torch.rand(4),
            "res": torch.rand(4, 4),
        }
        plain = partial(reference.combine_aggregate, impl="reference", **OPTIONS)
        operations = partial(fused, **OPTIONS), plain, partial(exact, **OPTIONS)
        assert_within_twice(*(partial(run, operation) for operation in operations), arguments)

    @pytest.mark.parametrize("leading", [(), (2, 3, 2), (0,), (2, 0)])
    @pytest.mark.parametrize("joined", [True, False])
    def test_any_leading_dimensions(self, leading, joined):
        arguments = [tensor.to(DEVICE).requires_grad_() for tensor in inputs(leading, 4, 9).values()]
        outputs, expected = (f(*arguments, **OPTIONS) for f in (partial(fused, joined=joined), exact))
        assert [output.shape for output in outputs] == [output.shape for output in expected]
        found, expected = gradients(outputs, arguments), gradients(expected, arguments)
        assert all(relative_error(a, e) < 1e-5 for a, e in zip(found, expected, strict=True))

    @pytest.mark.parametrize("used", range(5))
    def test_each_output_alone_reaches_every_argument(self, used):
        arguments = [tensor.to(DEVICE).requires_grad_() for tensor in inputs((9,), 4, 20).values()]
        found, expected = (
            torch.autograd.grad((f(*arguments, **OPTIONS)[used] ** 2).sum(), arguments, allow_unused=True)
            for f in (fused, exact)
        )
        for a, e in zip(found, expected, strict=True):
            assert relative_error(a, torch.zeros_like(a) if e is None else e) < 1e-5

    def test_the_compiler_sees_it_and_torch_checks_it(self):
        from kernels.combine_aggregate import triton

        arguments = [tensor.to(DEVICE).requires_grad_() for tensor in inputs((1, 6), 3, 20).values()]
        for joined in (True, False):
            torch.library.opcheck(triton._forward, (*arguments, 20, False, 0.0, 1e-6, "tf32", joined))
        run = partial(combine_aggregate, impl="triton", **OPTIONS)
        compiled = torch.compile(run, fullgraph=True, backend="inductor" if DEVICE == "cuda" else "aot_eager")
        found, expected = (gradients(operation(*arguments), arguments) for operation in (compiled, run))
        assert all(relative_error(a, e) < 1e-6 for a, e in zip(found, expected, strict=True))

    def test_twice_the_same_bits(self):
        arguments = inputs((130,), 4, 70, torch.bfloat16)
        first, second = (outputs_and_gradients(partial(fused, **OPTIONS), arguments) for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)

    @pytest.mark.parametrize("lost", ["x", "y", "post", "res", "phi", "alpha", "bias", "the last token"])
    def test_the_comparison_notices_a_gradient_of_zeros_and_a_block_that_was_skipped(self, lost):
        names = list(inputs((1,), 2, 5))

        def broken(*tensors):
            given = dict(zip(names, tensors, strict=True))
            if lost in given:
                given[lost] = given[lost].detach() + 0 * given[lost]
            outputs = fused(*given.values(), **OPTIONS)
            return [torch.cat([o[:-1], 0 * o[-1:]]) for o in outputs] if lost == "the last token" else outputs

        plain = partial(reference.combine_aggregate, impl="reference", **OPTIONS)
        with pytest.raises(AssertionError, match="twice the error"):
            assert_within_twice(broken, plain, partial(exact, **OPTIONS), inputs((7,), 3, 9))

    def test_flops_are_counted(self):
        from torch.utils.flop_counter import FlopCounterMode

        arguments = [tensor.to(DEVICE).requires_grad_() for tensor in inputs((6,), 3, 20).values()]
        with FlopCounterMode(display=False) as counter:
            sum(output.sum() for output in fused(*arguments, **OPTIONS)).backward()
        # combine n + 1, projection n (n + 2), aggregate 1 products of all of x
        assert counter.get_total_flops() == 3 * 2 * (4 + 15 + 1) * 6 * 3 * 20


@pytest.mark.parametrize(
    ("named", "changed"),
    [
        ("x", {"x": torch.randn(5)}),
        ("y", {"y": torch.randn(2, 6)}),
        ("post", {"post": torch.randn(2, 4)}),
        ("res", {"res": torch.randn(3, 3)}),
        ("phi", {"phi": torch.randn(15, 14)}),
        ("alpha", {"alpha": torch.randn(2)}),
        ("bias", {"bias": torch.zeros(15, dtype=torch.int64)}),
        ("steps", {"steps": 0}),
        ("last", {"last": "row"}),
        ("norm_eps", {"norm_eps": 0.0}),
        ("precision", {"precision": "fp8"}),
    ],
)
def test_a_wrong_argument_is_named(named, changed):
    with pytest.raises(ValueError, match=rf"combine_aggregate: .*\b{named}\b.* must be .*got"):
        combine_aggregate(**(inputs((2,), 3, 5) | changed))
