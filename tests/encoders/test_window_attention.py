"""Attention in windows: three codes of one definition, what a window sees, and the relative positions."""

import pytest
import torch
import torch.nn.functional as F
from helpers import FP32, FP64, assert_close, outputs_and_gradients, randomise, relative_error

from encoders import grid_attention as codes
from encoders.window_attention import WindowAttention, relative
from mhc import Context

CODES = [codes.as_defined, codes.with_codes, codes.in_blocks]


def written_out(query, key, value, rows, columns):
    """One query and one key at a time."""
    r, c = len(rows), len(columns)
    results = []
    for i in range(r * c):
        scores = []
        for j in range(r * c):
            bias = rows[i // c, j // c] + columns[i % c, j % c]
            scores.append(
                (query[:, :, i] * key[:, :, j]).sum(-1) / query.shape[-1] ** 0.5 + (query[:, :, i] * bias).sum(-1)
            )
        results.append((torch.stack(scores, -1).softmax(-1)[..., None] * value).sum(2))
    return torch.stack(results, 2)


def operands(batch=2, heads=3, r=3, c=4, width=5, dtype=torch.float64):
    shapes = {name: (batch, heads, r * c, width) for name in ("query", "key", "value")}
    shapes |= {"rows": (r, r, width), "columns": (c, c, width)}
    return {name: torch.randn(shape, dtype=dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("code", [*CODES, codes.grid_attention])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, FP64), (torch.float32, 1e-6)])
def test_every_code_and_its_gradients_equal_the_definition(code, dtype, tolerance):
    arguments = operands()
    expected = outputs_and_gradients(written_out, arguments)
    assert_close(outputs_and_gradients(code, arguments, dtype), expected, tolerance)


@pytest.mark.parametrize("block", [1, 12, 50, 12 * 12, 12 * 12 * 4, 10**6])
def test_blocks_of_any_size_are_the_same_function(monkeypatch, block):
    arguments = operands()
    expected = outputs_and_gradients(codes.as_defined, arguments)
    monkeypatch.setattr(codes, "_BLOCK", block)
    assert_close(outputs_and_gradients(codes.in_blocks, arguments), expected, FP64)


@pytest.mark.parametrize("code", CODES)
def test_scores_of_any_size_have_a_softmax(code):
    arguments = operands(dtype=torch.float32)
    arguments["query"] *= 300  # exp of such scores overflows
    actual = outputs_and_gradients(code, arguments)
    assert relative_error(actual["out0"], codes.as_defined(*(x.double() for x in arguments.values()))) < 1e-3
    assert all(tensor.isfinite().all() for tensor in actual.values())


@pytest.mark.parametrize("code", CODES)
def test_bf16_stays_close_to_fp64(code):
    arguments = {name: 0.5 * tensor for name, tensor in operands(r=6, c=6, width=16).items()}
    actual, expected = outputs_and_gradients(code, arguments, torch.bfloat16), outputs_and_gradients(code, arguments)
    # 2^-9 a rounding; operands, products and weights each have one
    assert_close(actual, expected, 3e-2)
    assert {tensor.dtype for tensor in actual.values()} == {torch.bfloat16}


def test_autocast_rounds_nothing_inside_the_blocks():
    arguments = {name: tensor.bfloat16() for name, tensor in operands(r=6, c=6, width=16).items()}
    expected = outputs_and_gradients(codes.as_defined, arguments, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        actual = outputs_and_gradients(codes.in_blocks, arguments)
    # results alone are rounded; the upstream in bf16 is another rounding of the same numbers
    assert relative_error(actual["out0"], expected["out0"]) < 2**-9
    assert_close(actual, expected, 2**-8)


def attention(window=3, side=None, width=12, heads=2):
    return randomise(WindowAttention(width, heads=heads, window=window, side=side).double(), 0.3)


def influence(module, grid, token):
    """Tokens [rows, columns] whose inputs the output of one token depends on."""
    x = torch.randn(1, grid[0] * grid[1], 12, dtype=torch.float64, requires_grad=True)
    output = module(x, Context(grid=grid))[0, token[0] * grid[1] + token[1]]
    (gradient,) = torch.autograd.grad(output.square().sum(), x)
    return gradient.abs().amax(-1).view(grid) > 0


def test_a_window_sees_itself_alone():
    for token, rows, columns in [((0, 0), (0, 3), (0, 3)), ((4, 5), (3, 6), (3, 6)), ((6, 7), (6, 7), (6, 8))]:
        expected = torch.zeros(7, 8, dtype=torch.bool)
        expected[slice(*rows), slice(*columns)] = True
        assert torch.equal(influence(attention(), (7, 8), token), expected)


def test_global_attention_sees_all():
    assert influence(attention(window=0, side=5), (4, 7), (1, 2)).all()


def test_filling_is_seen_as_zeros_behind_the_norm():
    module, grid = attention(), (4, 5)
    x = torch.randn(2, 20, 12, dtype=torch.float64)
    normed = F.pad(module.norm(x).unflatten(1, grid), (0, 0, 0, 1, 0, 2))
    norm, module.norm = module.norm, torch.nn.Identity()
    filled = module(normed.flatten(1, 2), Context(grid=(6, 6))).unflatten(1, (6, 6))[:, :4, :5]
    module.norm = norm
    assert relative_error(module(x, Context(grid=grid)), filled.flatten(1, 2)) < FP64
    alone = module(x.unflatten(1, grid)[:, 3:, 3:].flatten(1, 2), Context(grid=(1, 2)))
    corner = module(x, Context(grid=grid)).unflatten(1, grid)[:, 3:, 3:].flatten(1, 2)
    assert relative_error(alone, corner) < FP64


def test_a_window_as_large_as_the_grid_is_global_attention():
    windowed, everywhere = attention(window=5), attention(window=0, side=5)
    everywhere.load_state_dict(windowed.state_dict())
    x, context = torch.randn(2, 25, 12, dtype=torch.float64), Context(grid=(5, 5))
    assert relative_error(windowed(x, context), everywhere(x, context)) < FP64


def test_relative_positions_are_query_minus_key():
    table = torch.randn(9, 4, dtype=torch.float64)
    made = relative(table, 5)
    for query in range(5):
        for key in range(5):
            assert torch.equal(made[query, key], table[query - key + 4])


@pytest.mark.parametrize("side", [1, 3, 8])
def test_relative_positions_are_interpolated_linearly(side):
    table = torch.randn(9, 2, dtype=torch.float64)
    distances = 2 * side - 1
    places = ((torch.arange(distances, dtype=torch.float64) + 0.5) * 9 / distances - 0.5).clamp(0, 8)
    below = places.floor().long().clamp(max=7)
    expected = torch.lerp(table[below], table[below + 1], (places - below)[:, None])
    made = relative(table, side)
    assert relative_error(torch.cat([made[0].flip(0), made[1:, 0]]), expected) < FP64
    assert relative(table.bfloat16(), side).dtype == torch.bfloat16


@pytest.mark.parametrize("context", [None, Context(), Context(grid=(2, 3))])
def test_a_grid_that_is_missing_or_wrong_is_an_error(context):
    with pytest.raises(ValueError, match=r"4 tokens.*Context\.grid"):
        attention()(torch.zeros(1, 4, 12, dtype=torch.float64), context)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"heads": 5, "window": 3}, "heads"),
        ({"heads": 0, "window": 3}, "heads"),
        ({"heads": 2, "window": -1}, "window"),
        ({"heads": 2}, "side"),
    ],
)
def test_sizes_that_do_not_fit_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        WindowAttention(12, **arguments)


def test_fp32_module_equals_fp64():
    module, x = attention(), torch.randn(2, 20, 12, dtype=torch.float64)
    expected = module(x, Context(grid=(4, 5)))
    assert relative_error(module.float()(x.float(), Context(grid=(4, 5))), expected) < FP32
