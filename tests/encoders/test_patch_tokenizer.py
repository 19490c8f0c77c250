"""The patch tokenizer against unfold and a matrix product."""

import pytest
import torch
import torch.nn.functional as F
from helpers import FP64, assert_close, gradients, randomise, relative_error

from encoders.patch import PatchTokenizer
from mhc import build, describe


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("positions", [None, 2, 4])
def test_it_is_a_matrix_product_of_patches(positions, channels):
    tokenizer = PatchTokenizer(width=6, patch=8, channels=channels, positions=positions)
    tokenizer = randomise(tokenizer.double(), 0.3)
    pixels = torch.randn(2, channels, 16, 32, dtype=torch.float64, requires_grad=True)
    patches = F.unfold(pixels, 8, stride=8).mT
    expected = patches @ tokenizer.patch.weight.flatten(1).T + tokenizer.patch.bias
    if positions is not None:
        table = tokenizer.positions.movedim(-1, 1)
        table = F.interpolate(table, (2, 4), mode="bicubic", antialias=True)
        expected = expected + table.flatten(2).mT
    named = {"pixels": pixels} | dict(tokenizer.named_parameters())
    results = [
        {"out": y} | dict(zip(named, gradients(y, list(named.values())), strict=True))
        for y in (tokenizer(pixels), expected)
    ]
    assert_close(*results, FP64)
    assert results[0]["out"].shape == (2, 8, 6)


def test_positions_on_their_own_grid_are_the_table():
    tokenizer = PatchTokenizer(width=6, patch=4, positions=3)
    image = torch.randn(1, 3, 12, 12)
    without = PatchTokenizer(width=6, patch=4)
    without.patch.load_state_dict(tokenizer.patch.state_dict())
    assert relative_error(tokenizer(image) - without(image), tokenizer.positions.flatten(1, 2)) < 1e-5
    assert tokenizer.positions.std().item() == pytest.approx(0.02, rel=0.5)


@pytest.mark.parametrize("size", [(12, 16), (16, 20), (0, 8)])
def test_sizes_that_the_patch_does_not_divide_are_named(size):
    with pytest.raises(ValueError, match=rf"stride 8, got {size[0]} x {size[1]}"):
        PatchTokenizer(width=6, patch=8)(torch.zeros(1, 3, *size))


@pytest.mark.parametrize("name", ["width", "patch", "channels", "positions"])
def test_arguments_out_of_range_are_named(name):
    with pytest.raises(ValueError, match=name):
        PatchTokenizer(**{"width": 6, "patch": 8, name: 0})


def test_other_channels_are_an_error():
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        PatchTokenizer(width=6, patch=8)(torch.zeros(1, 1, 8, 8))


def test_it_is_built_again_from_its_description():
    node = describe(PatchTokenizer(width=6, patch=8, positions=4))
    again = build(node)
    assert describe(again) == node
    assert (again.width, again.stride) == (6, 8)


def test_bf16_works():
    tokenizer = PatchTokenizer(width=6, patch=8, positions=2).bfloat16()
    assert tokenizer(torch.randn(1, 3, 8, 24).bfloat16()).dtype == torch.bfloat16
