"""Products by group against their definition, row by row; every code on every spread of rows over groups."""

import pytest
import torch
from helpers import FP32, FP64, assert_close, outputs_and_gradients, random_like, relative_error
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kernels import grouped_product

C, D = 8, 16
SPREADS = {
    "all alike": [3, 3, 3],
    "uneven": [1, 7, 2, 5],
    "empty ones": [0, 4, 0, 0, 3, 0],
    "one takes all": [0, 0, 9],
    "one row": [0, 1],
    "one group": [6],
    "no rows": [0, 0, 0],
}
CODES = ["reference", "grouped_mm"]


def case(spread: list[int], dtype: torch.dtype = torch.float64) -> tuple[dict[str, Tensor], Tensor]:
    ends = torch.tensor(spread).cumsum(0)
    x = torch.randn(sum(spread), C, dtype=torch.float64)
    return {"x": x.to(dtype), "weight": torch.randn(len(spread), D, C, dtype=torch.float64).to(dtype)}, ends


def row_by_row(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    experts = [sum(row >= end for end in ends.tolist()) for row in range(len(x))]
    rows = [weight[expert] @ x[row] for row, expert in enumerate(experts)]
    return torch.stack(rows) if rows else x @ weight[0].mT + 0 * weight.sum()


@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
@pytest.mark.parametrize(("impl", "dtype"), [("reference", torch.float64), *((code, torch.float32) for code in CODES)])
def test_products_and_their_gradients_are_those_of_each_row(spread, impl, dtype):
    arguments, ends = case(spread)
    expected = outputs_and_gradients(lambda x, weight: row_by_row(x, weight, ends), arguments)
    for kind in (torch.int32, torch.int64):
        found = outputs_and_gradients(
            lambda x, weight, kind=kind: grouped_product(x, weight, ends.to(kind), impl=impl), arguments, dtype
        )
        assert_close(found, expected, FP64 if dtype == torch.float64 else FP32)


@pytest.mark.parametrize("impl", CODES)
def test_bf16_is_no_further_off_than_twice_a_loop_in_bf16(impl):
    arguments, ends = case([40, 0, 90, 3])
    expected = outputs_and_gradients(lambda x, weight: row_by_row(x, weight, ends), arguments)

    def loop(x: Tensor, weight: Tensor) -> Tensor:
        parts = x.split([40, 0, 90, 3])
        return torch.cat([part @ matrix.mT for part, matrix in zip(parts, weight, strict=True)])

    budget = outputs_and_gradients(loop, arguments, torch.bfloat16)
    found = outputs_and_gradients(
        lambda x, weight: grouped_product(x, weight, ends, impl=impl), arguments, torch.bfloat16
    )
    for name in expected:
        assert found[name].dtype == torch.bfloat16
        assert relative_error(found[name], expected[name]) <= 2 * relative_error(budget[name], expected[name]), name


@pytest.mark.parametrize("impl", CODES)
def test_strides_do_not_matter_and_a_broadcast_upstream_is_taken(impl):
    arguments, ends = case([2, 0, 5], torch.float32)
    plain = grouped_product(*arguments.values(), ends, impl=impl)
    strided = {name: tensor.mT.contiguous().mT.requires_grad_() for name, tensor in arguments.items()}
    result = grouped_product(*strided.values(), ends, impl=impl)
    assert relative_error(result, plain) < FP32
    d_x, d_weight = torch.autograd.grad(result.sum(), list(strided.values()))
    rows = torch.tensor([0, 0, 2, 2, 2, 2, 2])
    assert relative_error(d_x, arguments["weight"].sum(1)[rows]) < FP32
    assert relative_error(d_weight[2], arguments["x"][2:].sum(0).expand(D, C)) < FP32


@pytest.mark.parametrize("impl", CODES)
@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_a_frozen_argument_gets_no_gradient(impl, frozen):
    arguments, ends = case([2, 0, 5], torch.float32)
    leaves = {name: tensor.requires_grad_(name != frozen) for name, tensor in arguments.items()}
    grouped_product(**leaves, ends=ends, impl=impl).sum().backward()
    assert [name for name, leaf in leaves.items() if leaf.grad is None] == [frozen]


@pytest.mark.parametrize("impl", CODES)
def test_a_group_without_rows_gets_a_gradient_of_exactly_zero(impl, monkeypatch):
    # memory that was not written would show
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        arguments, ends = case([0, 4, 0, 2, 0], torch.float32)
        weight = arguments["weight"].requires_grad_()
        result = grouped_product(arguments["x"], weight, ends, impl=impl)
        (gradient,) = torch.autograd.grad(result, weight, random_like(result))
    finally:
        torch.use_deterministic_algorithms(False)
    assert not gradient[[0, 2, 4]].any()
    assert gradient[[1, 3]].abs().amin() > 0


@pytest.mark.parametrize(("device", "impl"), [("cpu", "reference"), ("cpu", "grouped_mm"), ("meta", "auto")])
@pytest.mark.parametrize("spread", [[5, 0, 11], [16]])
def test_every_row_is_counted_once_whatever_the_device(device, impl, spread):
    arguments, ends = case(spread, torch.float32)
    grouped_product(
        *arguments.values(), ends, impl=impl
    )  # torch's counter takes the formulas there are when it is made
    x, weight = (tensor.to(device).requires_grad_() for tensor in arguments.values())
    with FlopCounterMode(display=False) as counter:
        result = grouped_product(x, weight, ends.to(device), impl=impl)
    assert counter.get_total_flops() == 2 * 16 * C * D
    with FlopCounterMode(display=False) as counter:
        result.backward(torch.ones_like(result))
    assert counter.get_total_flops() == 4 * 16 * C * D
    assert (result.shape, x.grad.shape, weight.grad.shape) == ((16, D), x.shape, weight.shape)


def test_autocast_decides_the_dtype():
    arguments, ends = case([3, 4], torch.float32)
    x, weight = (tensor.requires_grad_() for tensor in arguments.values())
    with torch.autocast("cpu", torch.bfloat16):
        result = grouped_product(x, weight, ends)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, grouped_product(x.bfloat16(), weight.bfloat16(), ends))
    result.sum().backward()
    assert (x.grad.dtype, weight.grad.dtype) == (torch.float32, torch.float32)


X, WEIGHT, ENDS = torch.randn(5, C), torch.randn(2, D, C), torch.tensor([2, 5])


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: grouped_product(X[None], WEIGHT, ENDS), r"x must be \[N, C\]"),
        (lambda: grouped_product(X.long(), WEIGHT, ENDS), "x must be of a floating dtype"),
        (lambda: grouped_product(X, WEIGHT[0], ENDS), "weight must be"),
        (lambda: grouped_product(X, WEIGHT[:, :, 1:], ENDS), f"C = {C}"),
        (lambda: grouped_product(X, WEIGHT[:0], ENDS[:0]), "E at least 1"),
        (lambda: grouped_product(X, WEIGHT.double(), ENDS), "weight must be of the dtype of x"),
        (lambda: grouped_product(X, WEIGHT.to("meta"), ENDS), "one device"),
        (lambda: grouped_product(X, WEIGHT, ENDS[:1]), "ends must be"),
        (lambda: grouped_product(X, WEIGHT, ENDS.double()), "ends must be int32 or int64"),
        (lambda: grouped_product(X, WEIGHT, ENDS.to("meta")), "ends must be on the device"),
        (lambda: grouped_product(X, WEIGHT, ENDS - 1), r"ends must be ascending to N = 5, got \[1, 4\]"),
        (lambda: grouped_product(X, WEIGHT, ENDS.flip(0)), "ends must be ascending to N = 5"),
        (lambda: grouped_product(X, WEIGHT, ENDS, impl="fast"), "impl must be .*'fast'"),
    ],
)
def test_wrong_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=f"grouped_product: .*{named}"):
        call()


@pytest.mark.parametrize(
    ("x", "weight"), [(X.double(), WEIGHT.double()), (X[:, 1:], WEIGHT[:, :, 1:]), (X, WEIGHT[:, 1:])]
)
def test_torchs_kernel_is_refused_where_it_cannot_run(x, weight):
    assert grouped_product(x, weight, ENDS).shape == (5, weight.shape[1])
    with pytest.raises(RuntimeError, match="impl='grouped_mm' needs"):
        grouped_product(x, weight, ENDS, impl="grouped_mm")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU on this machine")
@pytest.mark.parametrize("spread", [[300, 0, 129, 1, 0, 70], [0, 0, 500]])
def test_on_a_gpu_torchs_kernel_runs_without_waiting(spread):
    arguments, ends = case(spread, torch.bfloat16)
    expected = outputs_and_gradients(lambda x, weight: row_by_row(x, weight, ends), arguments, torch.float64)
    x, weight = (tensor.cuda().requires_grad_() for tensor in arguments.values())
    ends, upstream = ends.cuda(), random_like(expected["out0"].bfloat16()).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = grouped_product(x, weight, ends)
        d_x, d_weight = torch.autograd.grad(result, [x, weight], upstream)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = {"out0": result.cpu(), "d_x": d_x.cpu(), "d_weight": d_weight.cpu()}
    assert_close(found, expected, 1e-2)  # bf16 keeps 4e-3 of a value
