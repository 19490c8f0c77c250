"""H_pre, H_post and H_res from the streams, against the paper's equations in fp64."""

import oracles
import pytest
import torch
from helpers import FP32, FP64, assert_close, leaves, outputs_and_gradients, relative_error

from kernels import hyper_coefficients


def inputs_of(leading: tuple[int, ...], n: int, width: int) -> dict[str, torch.Tensor]:
    """Weights at which every part of the logits is of order 1."""
    fp64 = torch.float64
    return {
        "x": 3 * torch.randn(*leading, n, width, dtype=fp64),
        "phi": torch.randn(n * width, n * (n + 2), dtype=fp64) / (n * width) ** 0.5,
        "alpha": 1 + 0.3 * torch.randn(3, dtype=fp64),
        "bias": torch.randn(n * (n + 2), dtype=fp64),
    }


@pytest.mark.parametrize("eps", [0.0, 1e-6, 1e-2])
@pytest.mark.parametrize("last", ["rows", "columns"])
@pytest.mark.parametrize(("leading", "n", "width"), [((3, 5), 4, 63), ((), 2, 7), ((6,), 8, 3), ((2, 1, 4), 3, 1)])
def test_equals_the_oracle_with_every_gradient(leading, n, width, last, eps):
    options = {"last": last, "eps": eps, "norm_eps": 1e-6}
    arguments = inputs_of(leading, n, width)
    expected = outputs_and_gradients(lambda *a: oracles.hyper_coefficients(*a, **options), arguments)
    assert_close(outputs_and_gradients(lambda *a: hyper_coefficients(*a, **options), arguments), expected, FP64)


def test_equals_the_oracle_in_fp32(impl):
    arguments = {name: tensor.float() for name, tensor in inputs_of((65,), 4, 129).items()}
    expected = outputs_and_gradients(oracles.hyper_coefficients, arguments, torch.float64)
    actual = outputs_and_gradients(lambda *a: hyper_coefficients(*a, impl=impl), arguments)
    assert all(tensor.dtype == torch.float32 for tensor in actual.values())
    assert_close(actual, expected, FP32)


def test_one_stream_has_gates_alone():
    arguments = inputs_of((5,), 1, 6)
    pre, post, res = hyper_coefficients(**arguments)
    assert torch.allclose(res, torch.ones(5, 1, 1, dtype=torch.float64), atol=1e-15)
    inputs = leaves(*arguments.values())
    res_alone = hyper_coefficients(*inputs).res
    (d_bias,) = torch.autograd.grad(res_alone.sum(), inputs[3])
    assert d_bias.abs().max() < 1e-15
    assert pre.shape == post.shape == (5, 1)


@pytest.mark.parametrize("leading", [(0,), (2, 0, 3)])
def test_no_tokens(impl, leading):
    inputs = leaves(*(tensor.float() for tensor in inputs_of(leading, 4, 5).values()))
    outputs = hyper_coefficients(*inputs, impl=impl)
    assert [output.shape for output in outputs] == [(*leading, 4), (*leading, 4), (*leading, 4, 4)]
    sum(output.sum() for output in outputs).backward()
    assert [leaf.grad.shape for leaf in inputs] == [leaf.shape for leaf in inputs]
    assert all(not leaf.grad.any() for leaf in inputs)


def test_expanded_and_permuted_streams():
    arguments = inputs_of((2, 3), 4, 7) | {"x": torch.randn(2, 3, 7, dtype=torch.float64)}

    def of_copies(operation, x, *weights):
        return operation(x[..., None, :].expand(2, 3, 4, 7), *weights)

    expected = outputs_and_gradients(lambda *a: of_copies(oracles.hyper_coefficients, *a), arguments)
    assert_close(outputs_and_gradients(lambda *a: of_copies(hyper_coefficients, *a), arguments), expected, FP64)
    permuted = torch.randn(4, 7, 3, 2, dtype=torch.float64).permute(3, 2, 0, 1)
    weights = [arguments[name] for name in ("phi", "alpha", "bias")]
    for actual, wanted in zip(
        hyper_coefficients(permuted, *weights), oracles.hyper_coefficients(permuted, *weights), strict=True
    ):
        assert relative_error(actual, wanted) < FP64


def test_columns_are_pre_post_res_and_res_is_out_in():
    n, width = 3, 2
    x, phi, alpha = torch.zeros(1, n, width), torch.zeros(n * width, 15), torch.ones(3)
    bias = torch.arange(15.0) / 10
    pre, post, res = hyper_coefficients(x, phi, alpha, bias)
    assert torch.allclose(pre[0], bias[:3].sigmoid())
    assert torch.allclose(post[0], 2 * bias[3:6].sigmoid())
    assert torch.allclose(res[0], oracles.sinkhorn(bias[6:].view(3, 3)))
    # a large logit at [out 2, in 0] sends stream 0 to stream 2
    bias[6 + 2 * 3 + 0] = 20.0
    assert hyper_coefficients(x, phi, alpha, bias).res[0, 2, 0] > 0.9


def test_each_alpha_scales_its_own_part():
    arguments = inputs_of((4,), 3, 5)
    base = hyper_coefficients(**arguments)
    for part in range(3):
        alpha = arguments["alpha"].clone()
        alpha[part] = 0.0
        changed = hyper_coefficients(**(arguments | {"alpha": alpha}))
        assert [not torch.equal(a, b) for a, b in zip(changed, base, strict=True)] == [k == part for k in range(3)]


def test_streams_enter_by_direction_alone():
    # the root mean square divides out any scale that norm_eps does not reach
    arguments = inputs_of((6,), 4, 9)
    base = hyper_coefficients(**arguments, norm_eps=1e-20)
    for scale in (1e-4, 1e5):
        scaled = hyper_coefficients(**(arguments | {"x": scale * arguments["x"]}), norm_eps=1e-20)
        for a, b in zip(scaled, base, strict=True):
            assert relative_error(a, b) < FP64
    small = hyper_coefficients(**(arguments | {"x": 1e-4 * arguments["x"]}), norm_eps=1e-6)
    assert relative_error(small.pre, base.pre) > 1e-3


def test_bf16_streams_are_projected_in_fp32(impl):
    arguments = {name: tensor.float() for name, tensor in inputs_of((33,), 4, 64).items()}
    low = arguments | {"x": arguments["x"].bfloat16()}
    outputs = hyper_coefficients(**low, impl=impl)
    expected = hyper_coefficients(**(low | {"x": low["x"].float()}), impl=impl)
    for a, b in zip(outputs, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)
    inputs = leaves(*low.values())
    assert [g.dtype for g in torch.autograd.grad(sum(o.sum() for o in hyper_coefficients(*inputs)), inputs)] == [
        torch.bfloat16,
        torch.float32,
        torch.float32,
        torch.float32,
    ]


def test_low_precision_weights_are_promoted():
    arguments = {name: tensor.float() for name, tensor in inputs_of((5,), 4, 8).items()}
    low = {name: tensor.bfloat16() for name, tensor in arguments.items()}
    outputs = hyper_coefficients(**low)
    expected = hyper_coefficients(**{name: tensor.float() for name, tensor in low.items()})
    assert all(a.dtype == torch.float32 and torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))


def test_autocast_changes_nothing(impl):
    arguments = {name: tensor.float() for name, tensor in inputs_of((33,), 4, 64).items()}
    plain = outputs_and_gradients(lambda *a: hyper_coefficients(*a, impl=impl), arguments)

    def under_autocast(*inputs):
        with torch.autocast("cpu", torch.bfloat16):
            return hyper_coefficients(*inputs, impl=impl)

    cast = outputs_and_gradients(under_autocast, arguments)
    for name, tensor in plain.items():
        assert cast[name].dtype == torch.float32
        assert torch.equal(cast[name], tensor), name


def test_only_the_gradients_asked_for_are_made():
    arguments = inputs_of((3,), 4, 5)
    for asked in (["x"], ["phi"], ["alpha"], ["bias"], ["phi", "alpha", "bias"]):
        inputs = {name: tensor.clone().requires_grad_(name in asked) for name, tensor in arguments.items()}
        sum(output.square().sum() for output in hyper_coefficients(**inputs)).backward()
        assert [name for name, tensor in inputs.items() if tensor.grad is not None] == asked
