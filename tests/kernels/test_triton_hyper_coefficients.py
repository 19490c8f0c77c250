"""The fused `hyper_coefficients`, held to twice the error of torch at the same precision."""

import oracles
import pytest
import torch
from fused_cases import DEVICE, PAIRS, assert_within_twice, needs_triton, poisoned  # noqa: F401
from helpers import gradients, leaves, relative_error
from test_triton_sinkhorn import skip_last_block

from kernels import hyper_coefficients
from kernels.hyper_coefficients import reference

pytestmark = [pytest.mark.gpu, needs_triton, pytest.mark.usefixtures("poisoned")]

PRECISIONS = ("tf32", "bf16_split", "ieee")


def inputs(tokens, n, width, dtype=torch.float32):
    """Weights at which every part of the logits is of order 1."""
    k = n * (n + 2)
    return {
        "x": (3 * torch.randn(tokens, n, width)).to(dtype),
        "phi": torch.randn(n * width, k) / (n * width) ** 0.5,
        "alpha": 1 + 0.3 * torch.randn(3),
        "bias": torch.randn(k),
    }


def multiply(a, b, precision):
    """a b in torch at a precision; tf32 of the interpreter is fp32."""
    if precision == "bf16_split":
        (a_high, a_low), (b_high, b_low) = halves(a), halves(b)
        return a_high @ b_low + a_low @ b_high + a_high @ b_high
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        return a @ b
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def halves(tensor):
    high = tensor.bfloat16().float()
    return high, (tensor - high).bfloat16().float()


def plain(precision):
    """The operation in torch, operation by operation, with products of the given precision in both directions."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, phi):
            ctx.save_for_backward(x, phi)
            return multiply(x, phi, precision)

        @staticmethod
        def backward(ctx, gradient):
            x, phi = ctx.saved_tensors
            return multiply(gradient, phi.mT, precision), multiply(x.mT, gradient, precision)

    def run(x, phi, alpha, bias, *, steps=20, last="rows", eps=0.0, norm_eps=1e-20):
        n = x.shape[-2]
        flat = x.float().flatten(-2)
        inverse = (flat.square().mean(-1, keepdim=True) + norm_eps).rsqrt()
        projected = Product.apply(flat.reshape(-1, flat.shape[-1]), phi).view(*x.shape[:-2], -1) * inverse
        logits = projected * torch.cat([alpha[k].expand(size) for k, size in enumerate((n, n, n * n))]) + bias
        pre, post, res = logits.split([n, n, n * n], -1)
        mixing = oracles.sinkhorn(res.unflatten(-1, (n, n)), steps=steps, last=last, eps=eps)
        return pre.sigmoid() + eps, 2 * post.sigmoid(), mixing

    return run


def compare(arguments, precision="tf32", view=lambda x: x, **options):
    assert_within_twice(
        lambda x, *rest: hyper_coefficients(view(x), *rest, precision=precision, impl="triton", **options),
        lambda x, *rest: plain(precision)(view(x), *rest, **options),
        lambda x, *rest: oracles.hyper_coefficients(view(x), *rest, **options),
        arguments,
    )


@pytest.mark.parametrize(("tokens", "n", "width", "dtype"), PAIRS)
def test_twice_the_error_of_torch(tokens, n, width, dtype):
    # precision, direction and eps turn with the size, so that all of them meet
    compare(
        inputs(tokens, n, width, dtype),
        PRECISIONS[(tokens + width + n) % 3],
        last=("rows", "columns")[(width + n // 2) % 2],
        eps=(0.0, 1e-6)[(tokens + n) % 2],
        norm_eps=1e-6,
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_precision(precision, dtype):
    compare(inputs(40, 4, 70, dtype), precision)


def test_precisions_differ():
    arguments = {name: tensor.to(DEVICE) for name, tensor in inputs(40, 4, 70).items()}
    exact, split = (hyper_coefficients(**arguments, precision=p, impl="triton").pre for p in ("ieee", "bf16_split"))
    assert 1e-7 < relative_error(split, exact) < 1e-4


@pytest.mark.parametrize("n", [1, 5, 6, 7])
def test_any_number_of_streams(n):
    arguments = inputs(7, n, 33)
    if n > 1:
        compare(arguments)
        return
    given = leaves(*(tensor.to(DEVICE) for tensor in arguments.values()))
    pre, post, res = hyper_coefficients(*given, impl="triton")
    wanted = oracles.hyper_coefficients(*given)
    assert torch.equal(res, torch.ones_like(res))
    assert max(relative_error(pre, wanted[0]), relative_error(post, wanted[1])) < 1e-6
    for a, b in zip(gradients((pre, post), given), gradients(wanted[:2], given), strict=True):
        assert relative_error(a, b) < 1e-5


@pytest.mark.parametrize("steps", [1, 3, 40])
def test_other_numbers_of_steps(steps):
    compare(inputs(9, 4, 33), steps=steps)


def test_logits_beyond_the_range_of_probabilities():
    arguments = inputs(9, 4, 33)
    arguments["bias"] = 1e3 * arguments["bias"]
    given = leaves(*(tensor.to(DEVICE) for tensor in arguments.values()))
    res = hyper_coefficients(*given, impl="triton").res
    expected = oracles.hyper_coefficients(*(tensor.double() for tensor in arguments.values()))[2]
    assert (res.cpu() - expected).abs().max() < 1e-3  # the logits themselves are rounded by 1e3 * 6e-8
    assert all(torch.isfinite(gradient).all() for gradient in gradients(res, given))


def test_a_split_over_the_width_gives_what_one_launch_gives(monkeypatch):
    from kernels.hyper_coefficients import triton

    given = leaves(*(tensor.to(DEVICE) for tensor in inputs(40, 4, 300).values()))
    runs = []
    for processors in (0, 1000):  # never split, split as far as it goes
        launched = record_launches(monkeypatch, triton)
        monkeypatch.setattr(triton, "_processors", lambda device, count=processors: count)
        outputs = hyper_coefficients(*given, impl="triton")
        runs.append([*outputs, *gradients(outputs, given)])
        assert ("whole_kernel" in launched, "finish_kernel" in launched) == (not processors, bool(processors))
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(*runs, strict=True))


def record_launches(monkeypatch, module):
    names, wrap = [], module.wrap_triton

    def recorded(kernel):
        names.append(kernel.fn.__name__)
        return wrap(kernel)

    monkeypatch.setattr(module, "wrap_triton", recorded)
    return names


def test_strides_are_taken_as_they_come():
    arguments = inputs(6, 4, 7)
    compare(arguments | {"x": torch.randn(4, 7, 3, 2)}, view=lambda x: x.permute(3, 2, 0, 1))
    compare(arguments | {"x": torch.randn(3, 2, 7)}, view=lambda x: x[..., None, :].expand(3, 2, 4, 7))
    compare(arguments | {"x": torch.randn(5, 4, 14)}, view=lambda x: x[::2, :, ::2])


@pytest.mark.parametrize("leading", [(), (0,), (2, 0, 3), (1,), (2, 1, 3)])
def test_any_leading_dimensions(leading):
    arguments = inputs(1, 4, 5)
    given = leaves(*(t.to(DEVICE) for t in (arguments | {"x": torch.randn(*leading, 4, 5)}).values()))
    outputs = hyper_coefficients(*given, impl="triton")
    assert [output.shape for output in outputs] == [(*leading, 4), (*leading, 4), (*leading, 4, 4)]
    found = gradients(outputs, given)
    assert [gradient.shape for gradient in found] == [leaf.shape for leaf in given]
    if 0 in leading:
        assert not any(gradient.any() for gradient in found)


def test_an_all_zero_token_has_finite_gradients():
    arguments = inputs(9, 4, 33)
    arguments["x"][3] = 0.0
    for norm_eps in (1e-20, 1e-6):
        given = leaves(*(tensor.to(DEVICE) for tensor in arguments.values()))
        found = gradients(hyper_coefficients(*given, norm_eps=norm_eps, impl="triton"), given)
        assert all(torch.isfinite(gradient).all() for gradient in found)


def test_low_precision_weights_get_gradients_of_their_dtype():
    arguments = {name: tensor.bfloat16() for name, tensor in inputs(9, 4, 33).items()}
    given = leaves(*(tensor.to(DEVICE) for tensor in arguments.values()))
    outputs = hyper_coefficients(*given, impl="triton")
    assert all(output.dtype == torch.float32 for output in outputs)
    assert all(gradient.dtype == torch.bfloat16 for gradient in gradients(outputs, given))


def test_autocast_changes_nothing():
    given = [tensor.to(DEVICE) for tensor in inputs(9, 4, 33).values()]
    expected = hyper_coefficients(*given, impl="triton")
    with torch.autocast(DEVICE, torch.bfloat16):
        found = hyper_coefficients(*given, impl="triton")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_every_run_gives_the_same_bits():
    given = leaves(*(tensor.to(DEVICE) for tensor in inputs(99, 4, 129).values()))
    runs = []
    for _ in range(20 if DEVICE == "cuda" else 2):
        outputs = hyper_coefficients(*given, impl="triton")
        runs.append([*outputs, *gradients(outputs, given)])
    assert all(torch.equal(a, b) for run in runs for a, b in zip(run, runs[0], strict=True))


@pytest.mark.parametrize(
    "kernel", ["whole_kernel", "split_kernel", "finish_kernel", "coefficients_kernel", "streams_kernel"]
)
def test_the_comparison_notices_a_block_that_was_skipped(monkeypatch, kernel):
    from kernels.hyper_coefficients import triton

    # few programs are split, many are not; two blocks at least in either case
    monkeypatch.setattr(
        triton, "_processors", lambda device: 1000 if kernel in ("split_kernel", "finish_kernel") else 0
    )
    skip_last_block(monkeypatch, triton, kernel)
    with pytest.raises(AssertionError, match="twice the error"):
        compare(inputs(70, 4, 33))


@pytest.mark.parametrize("name", range(4), ids=["x", "phi", "alpha", "bias"])
def test_the_comparison_notices_a_gradient_of_zeros(monkeypatch, name):
    from kernels.hyper_coefficients import triton

    backward = triton._backward

    def zeroed(*arguments):
        found = list(backward(*arguments))
        found[name] = torch.zeros_like(found[name])
        return tuple(found)

    monkeypatch.setattr(triton, "_backward", zeroed)
    with pytest.raises(AssertionError, match=f"twice the error.*d_{('x', 'phi', 'alpha', 'bias')[name]}"):
        compare(inputs(20, 4, 33))


@pytest.mark.parametrize("precision", ["fp32", "TF32", ""])
def test_an_unknown_precision_is_named(precision):
    with pytest.raises(ValueError, match="precision must be 'tf32'"):
        hyper_coefficients(*inputs(2, 3, 4).values(), precision=precision)


def test_nothing_but_the_projection_and_r_is_kept():
    given = leaves(*(tensor.to(DEVICE) for tensor in inputs(9, 4, 33).values()))
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hyper_coefficients(*given, impl="triton")
    own = {tensor.untyped_storage().data_ptr() for tensor in given}
    extra = [tensor for tensor in kept if tensor.untyped_storage().data_ptr() not in own]
    assert sum(tensor.numel() for tensor in extra) == 9 * (4 * 6 + 1)
    assert reference is not None
