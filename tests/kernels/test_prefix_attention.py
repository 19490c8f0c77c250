"""Prefix attention equals the softmax under its mask, with every gradient, in every code that runs here."""

import math

import pytest
import torch
from helpers import FP64, assert_close, outputs_and_gradients, relative_error
from torch import Tensor

from kernels.prefix_attention import prefix_attention
from kernels.prefix_attention.reference import dense_mask

# (tokens, prefix): odd sizes, no prefix, one token, everything a prefix, queries alone at the end
SIZES = [(1, 0), (1, 1), (63, 31), (13, 0), (13, 13), (50, 1), (50, 49), (129, 100), (300, 144)]
HEADS = [(4, 4), (6, 2), (3, 1)]


def inputs(length: int, heads: int = 4, groups: int = 4, width: int = 16, batch: int = 2) -> dict[str, Tensor]:
    def normal(count: int) -> Tensor:
        # as attention hands them over: [B, S, H, D] transposed
        return torch.randn(batch, length, count, width, dtype=torch.float64).transpose(1, 2)

    return {"query": normal(heads), "key": normal(groups), "value": normal(groups)}


def softmax(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None = None) -> Tensor:
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    scores = query @ key.mT * (scale or 1 / math.sqrt(query.shape[-1]))
    return scores.masked_fill(~mask, -math.inf).softmax(-1) @ value


def mask_by_words(length: int, prefix: int) -> Tensor:
    mask = torch.zeros(length, length, dtype=torch.bool)
    for row in range(length):
        for column in range(length):
            visual, seen_visual = row < prefix, column < prefix
            mask[row, column] = seen_visual if visual else seen_visual or column <= row
    return mask


def errors(impl: str, length: int, prefix: int, mask: Tensor, **shape: int) -> list[float]:
    arguments = inputs(length, **shape)
    expected = outputs_and_gradients(lambda *a: softmax(*a, mask), arguments)
    actual = outputs_and_gradients(lambda *a: prefix_attention(*a, prefix=prefix, impl=impl), arguments)
    return [relative_error(actual[name], expected[name]) for name in expected]


@pytest.mark.parametrize("impl", ["auto", "reference", "split"])
@pytest.mark.parametrize(("length", "prefix"), SIZES)
@pytest.mark.parametrize(("heads", "groups"), HEADS)
def test_equals_the_softmax_with_every_gradient(impl, length, prefix, heads, groups):
    assert max(errors(impl, length, prefix, mask_by_words(length, prefix), heads=heads, groups=groups)) < FP64


@pytest.mark.parametrize("impl", ["auto", "reference", "split"])
@pytest.mark.parametrize("wrong", ["causal", "bidirectional"])
def test_another_mask_fails_by_a_wide_margin(impl, wrong):
    mask = torch.ones(60, 60, dtype=torch.bool)
    assert min(errors(impl, 60, 30, mask.tril() if wrong == "causal" else mask)) > 0.1


@pytest.mark.parametrize(("length", "prefix"), SIZES)
def test_the_dense_mask_says_what_the_words_say(length, prefix):
    assert torch.equal(dense_mask(length, prefix), mask_by_words(length, prefix))


@pytest.mark.parametrize("impl", ["auto", "split"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("length", "prefix"), [(63, 31), (500, 244)])
def test_no_less_exact_than_the_dense_mask_in_the_same_dtype(impl, dtype, length, prefix):
    arguments = {name: tensor.to(dtype) for name, tensor in inputs(length, heads=4, groups=2, batch=1).items()}
    wide = {name: tensor.double() for name, tensor in arguments.items()}
    expected = outputs_and_gradients(lambda *a: softmax(*a, mask_by_words(length, prefix)), wide)
    plain, actual = (
        outputs_and_gradients(lambda *a, code=code: prefix_attention(*a, prefix=prefix, impl=code), arguments)
        for code in ("reference", impl)
    )
    for name in expected:
        assert actual[name].dtype == dtype
        error, allowed = relative_error(actual[name], expected[name]), relative_error(plain[name], expected[name])
        assert error <= 2 * allowed + 1e-7, name


@pytest.mark.parametrize("impl", ["auto", "reference", "split"])
@pytest.mark.parametrize("position", [0, 3, 6, 7, 12, 19])
def test_who_is_reached_by_a_token(impl, position):
    length, prefix = 20, 7
    arguments = inputs(length)
    changed = {name: tensor.clone() for name, tensor in arguments.items()}
    for name in ("key", "value"):
        changed[name][:, :, position] += 1.0
    before, after = (prefix_attention(**given, prefix=prefix, impl=impl) for given in (arguments, changed))
    moved = (after - before).abs().amax((0, 1, 3))
    reached = torch.arange(length) >= (0 if position < prefix else position)
    assert (moved[reached] > 1e-6).all()
    assert (moved[~reached] == 0).all()


@pytest.mark.parametrize("impl", ["auto", "split"])
def test_scores_far_apart_and_a_scale_of_ones_own(impl):
    arguments = inputs(40)
    arguments["query"] *= 300  # one part of a row then holds nearly all of its weight

    def run(function):
        return outputs_and_gradients(function, arguments)

    expected = run(lambda *a: softmax(*a, mask_by_words(40, 16), 0.7))
    assert_close(run(lambda *a: prefix_attention(*a, prefix=16, scale=0.7, impl=impl)), expected, 1e-10)


@pytest.mark.parametrize("impl", ["auto", "split"])
def test_strides_as_they_come(impl):
    arguments = inputs(24, width=8)
    turned = {name: tensor.mT.contiguous() for name, tensor in arguments.items()}

    def run(*given):
        return prefix_attention(*(tensor.mT for tensor in given), prefix=10, impl=impl).mT

    def expected(*given):
        return softmax(*(tensor.mT for tensor in given), mask_by_words(24, 10)).mT

    assert_close(outputs_and_gradients(run, turned), outputs_and_gradients(expected, turned), FP64)
    # an upstream without memory of its own
    leaf = arguments["query"].clone().requires_grad_()
    got, wanted = (
        torch.autograd.grad(function(leaf).sum(), leaf)[0]
        for function in (
            lambda query: prefix_attention(query, arguments["key"], arguments["value"], prefix=10, impl=impl),
            lambda query: softmax(query, arguments["key"], arguments["value"], mask_by_words(24, 10)),
        )
    )
    assert relative_error(got, wanted) < FP64


@pytest.mark.parametrize("impl", ["auto", "reference", "split"])
@pytest.mark.parametrize(("batch", "length", "prefix"), [(0, 6, 2), (2, 0, 0)])
def test_no_tokens(impl, batch, length, prefix):
    arguments = {name: tensor.requires_grad_() for name, tensor in inputs(length, batch=batch).items()}
    output = prefix_attention(**arguments, prefix=prefix, impl=impl)
    assert output.shape == arguments["query"].shape
    output.sum().backward()
    assert all(tensor.grad.shape == tensor.shape for tensor in arguments.values())


def test_no_mask_of_all_pairs_is_made_and_the_flash_kernel_runs():
    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        size, names = 0, ()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else (result,):
                self.size = max(self.size, tensor.numel() if isinstance(tensor, Tensor) else 0)
            self.names = (*self.names, function._opname)
            return result

    length = 1024
    arguments = [tensor.float().requires_grad_() for tensor in inputs(length, 1, 1, batch=1).values()]
    with Largest() as seen:
        prefix_attention(*arguments, prefix=length // 2).sum().backward()
    assert seen.size <= length * 16
    assert seen.names.count("_scaled_dot_product_flash_attention_for_cpu") == 2
    assert seen.names.count("_scaled_dot_product_flash_attention_for_cpu_backward") == 2


def test_autocast_decides_the_dtype():
    arguments = {name: tensor.float() for name, tensor in inputs(400, batch=1).items()}
    arguments["value"] = arguments["value"].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        output = prefix_attention(**arguments, prefix=200)
    narrow = {name: tensor.bfloat16() for name, tensor in arguments.items()}
    assert torch.equal(output, prefix_attention(**narrow, prefix=200))


@pytest.mark.parametrize("prefix", [0, 200, 400])
def test_compiles_as_one_graph(prefix):
    arguments = {name: tensor.float() for name, tensor in inputs(400, 2, 1, batch=1).items()}

    def run(*given):
        return prefix_attention(*given, prefix=prefix)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert_close(outputs_and_gradients(compiled, arguments), outputs_and_gradients(run, arguments), 1e-6)


def test_shapes_without_storage():
    query, key, value = (tensor.to("meta") for tensor in inputs(30, 4, 2).values())
    assert prefix_attention(query, key, value, prefix=10).shape == query.shape


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"query": torch.randn(2, 4, 6)}, r"query must be \[B, H, S, D\]"),
        ({"key": torch.randn(2, 3, 6, 8)}, "key must be of a number of heads that divides 4"),
        ({"key": torch.randn(2, 4, 5, 8)}, "key must be .* = .2, 4, 6, 8., got .2, 4, 5, 8."),
        ({"value": torch.randn(2, 2, 6, 8)}, "value must be"),
        ({"value": torch.randn(2, 4, 6, 9)}, "value must be"),
        ({"key": torch.randn(2, 4, 6, 8).double()}, "key must be of the dtype of query"),
        ({"query": torch.ones(2, 4, 6, 8, dtype=torch.int64)}, "query must be of a floating dtype"),
        ({"value": torch.randn(2, 4, 6, 8, device="meta")}, "on one device"),
        ({"prefix": -1}, "prefix must be an int from 0 to S = 6, got -1"),
        ({"prefix": 7}, "prefix must be"),
        ({"prefix": 2.0}, "prefix must be"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"impl": "dense"}, "impl must be"),
    ],
)
def test_bad_input(changes, complaint):
    arguments = {name: torch.randn(2, 4, 6, 8) for name in ("query", "key", "value")} | {"prefix": 3}
    with pytest.raises(ValueError, match=complaint):
        prefix_attention(**(arguments | changes))


def test_flex_runs_on_a_gpu_or_not_at_all():
    with pytest.raises(RuntimeError, match="prefix_attention: impl='flex'"):
        prefix_attention(*(torch.randn(1, 1, 4, 8) for _ in range(3)), prefix=2, impl="flex")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("impl", ["auto", "split", "flex"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("length", "prefix"), [(63, 31), (512, 256), (500, 0), (500, 500), (1001, 1000)])
@pytest.mark.parametrize("groups", [4, 2])
def test_on_a_gpu_no_less_exact_than_the_dense_mask(impl, dtype, length, prefix, groups):
    given = inputs(length, 4, groups, width=64)
    arguments = {name: tensor.to("cuda", dtype) for name, tensor in given.items()}
    wide = {name: tensor.double() for name, tensor in arguments.items()}
    expected = outputs_and_gradients(lambda *a: softmax(*a, dense_mask(length, prefix, a[0].device)), wide)
    plain, actual = (
        outputs_and_gradients(lambda *a, code=code: prefix_attention(*a, prefix=prefix, impl=code), arguments)
        for code in ("reference", impl)
    )
    for name in expected:
        error, allowed = relative_error(actual[name], expected[name]), relative_error(plain[name], expected[name])
        assert error <= 2 * allowed + 1e-6, name


def test_flops_are_counted_on_the_meta_device():
    """The split does (m^2 + q (m + q)) / (m + q)^2 of the dense products, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    counted = {}
    for impl in ("split", "reference"):
        query, key, value = (torch.empty(1, 2, 12, 8, device="meta", requires_grad=True) for _ in range(3))
        with FlopCounterMode(display=False) as counter:
            prefix_attention(query, key, value, prefix=4, impl=impl).sum().backward()
        counted[impl] = counter.get_total_flops()
    assert counted["split"] / counted["reference"] == pytest.approx((4 * 4 + 8 * 12) / 12**2)
