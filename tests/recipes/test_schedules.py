"""The learning-rate schedule at its corners."""

import math

import pytest
import torch

from recipes.schedules import WarmupCosine


def optimizer(rate: float = 2.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def rates(schedule: WarmupCosine, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return found


def test_values_at_the_corners():
    found = rates(WarmupCosine(optimizer(), warmup_steps=4, steps=10, floor=0.1), 14)
    assert found[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert found[4] == pytest.approx(2.0)
    assert found[7] == pytest.approx(2 * 0.55)
    assert found[6] == pytest.approx(2 * (0.1 + 0.45 * (1 + math.cos(math.pi / 3))))
    assert found[10:] == pytest.approx([0.2] * 4)


def test_no_warm_up_starts_at_the_whole_rate():
    assert rates(WarmupCosine(optimizer(), warmup_steps=0, steps=2, floor=0.0), 3) == pytest.approx([2.0, 1.0, 0.0])


def test_resumes():
    whole = rates(WarmupCosine(optimizer(), 2, 8), 8)
    first = WarmupCosine(optimizer(), 2, 8)
    rates(first, 3)
    second = WarmupCosine(optimizer(), 2, 8)
    second.load_state_dict(first.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert rates(second, 5) == pytest.approx(whole[3:])


@pytest.mark.parametrize(
    ("arguments", "word"), [((5, 5), "warmup_steps"), ((-1, 5), "warmup_steps"), ((1, 5, 2.0), "floor")]
)
def test_refuses(arguments, word):
    with pytest.raises(ValueError, match=word):
        WarmupCosine(optimizer(), *arguments)
