"""Which steps a number format rounds off."""

import warnings
from functools import partial

import pytest
import torch
from small_ocr import module

from recipes.precision import lost_share


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("rate", [1e-2, 1e-4, 1e-6, 1e-8])
def test_the_share_is_what_rounding_leaves_in_place(dtype, rate):
    weight = torch.randn(20_000, dtype=torch.float64).mul(0.02).to(dtype)
    stays = ((weight - rate) == weight) & ((weight + rate) == weight)
    found = lost_share([{"params": [weight], "lr": rate, "betas": (0.9, 0.95)}])
    # powers of two, below which neighbours are twice as near, and ties
    assert found == pytest.approx(float(stays.float().mean()), abs=0.006)


def test_the_highest_rate_counts_and_weights_of_every_group():
    small, large = (torch.full((3,), value, dtype=torch.bfloat16) for value in (1e-3, 1.0))
    first = {"params": [small], "lr": 0.0, "initial_lr": 1e-4, "betas": ()}
    groups = [first, {"params": [large], "lr": 1e-4, "betas": ()}]
    assert lost_share(groups) == 0.5
    first["initial_lr"] = 0.0
    assert lost_share(groups) == 1.0


def test_zeros_move_and_other_optimizers_are_left_out():
    weight = torch.zeros(3, dtype=torch.bfloat16)
    assert lost_share([{"params": [weight], "lr": 1e-30, "betas": ()}]) == 0.0
    assert lost_share([{"params": [weight + 1], "lr": 1e-30}]) == 0.0
    assert lost_share([]) == 0.0


def test_fp32_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module(optimizer=partial(torch.optim.AdamW, lr=1e-6)).configure_optimizers()
