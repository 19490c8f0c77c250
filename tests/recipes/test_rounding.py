"""Which steps a number format rounds off, and who says so."""

import json
from functools import partial

import pytest
import torch
from training import corpus, model, trainer

from recipes.rounding import lost_share, notice


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("rate", [1e-2, 1e-4, 1e-6, 1e-8])
def test_the_share_is_what_rounding_leaves_in_place(dtype, rate):
    weight = torch.randn(20_000, dtype=torch.float64).mul(0.02).to(dtype)
    stays = ((weight - rate) == weight) & ((weight + rate) == weight)
    found = lost_share([{"params": [weight], "lr": rate, "betas": (0.9, 0.95)}], 1.0)
    # powers of two, below which neighbours are twice as near, and ties
    assert found == pytest.approx(float(stays.float().mean()), abs=0.006)


def test_the_highest_rate_counts_and_weights_of_every_group():
    small, large = (torch.full((3,), value, dtype=torch.bfloat16) for value in (1e-3, 1.0))
    first = {"params": [small], "lr": 0.0, "initial_lr": 1e-4, "betas": ()}
    groups = [first, {"params": [large], "lr": 1e-4, "betas": ()}]
    assert lost_share(groups, 1.0) == 0.5
    # 1e-6 is below half of 2^-17, the distance of the small ones to their neighbours
    assert lost_share(groups, 0.01) == 1.0
    first["initial_lr"] = 0.0
    assert lost_share(groups, 1.0) == 1.0


def test_zeros_move_and_other_optimizers_are_left_out():
    weight = torch.zeros(3, dtype=torch.bfloat16)
    assert lost_share([{"params": [weight], "lr": 1e-30, "betas": ()}]) == 0.0
    assert lost_share([{"params": [weight + 1], "lr": 1e-30}]) == 0.0
    assert lost_share([]) == 0.0


def test_the_notice_names_share_and_remedy():
    assert notice(0.0) == notice(0.009) == ""
    assert notice(0.436).startswith("44% of the weights are too coarse for a step of a tenth of the learning rate")
    assert "bf16-mixed" in notice(0.436)


@pytest.mark.parametrize(("precision", "coarse"), [("bf16-true", True), ("32-true", False)])
def test_a_run_says_what_it_loses(tmp_path, recwarn, precision, coarse):
    slow = model(optimizer=partial(torch.optim.AdamW, lr=1e-6), lr_scheduler=None)
    trainer(tmp_path / "run", 1, precision=precision).fit(slow, corpus(tmp_path))
    share = json.loads((tmp_path / "run" / "status.json").read_text())["lost_share"]
    # the topologies' parameters, which are fp32, and zeros are the others
    assert (share > 0.5) == coarse
    assert (share == 0.0) != coarse
    assert any("too coarse" in str(warning.message) for warning in recwarn) == coarse
