"""A step's time by part, on a clock that the parts themselves move."""

import pytest
import torch
from torch import nn

from encoders.benchmark.timeline import Timeline


class Clock:
    now = 0.0


class Work(torch.autograd.Function):
    """The sum of its inputs, which takes `forward` and `backward` seconds."""

    @staticmethod
    def forward(ctx, clock, forward, backward, *inputs):
        ctx.clock, ctx.backward_takes, ctx.count = clock, backward, len(inputs)
        clock.now += forward
        return sum(inputs[1:], inputs[0].clone())

    @staticmethod
    def backward(ctx, gradient):
        ctx.clock.now += ctx.backward_takes
        return None, None, None, *[gradient] * ctx.count


class Part(nn.Module):
    def __init__(self, clock: Clock, forward: float, backward: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.takes = clock, forward, backward

    def forward(self, *inputs, bias=None):
        more = [] if bias is None else [bias]
        return {"output": Work.apply(*self.takes, self.weight, *inputs, *more)}


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_parts_the_optimizer_and_the_rest(clock):
    first, bank, second = Part(clock, 1, 2), Part(clock, 4, 8), Part(clock, 16, 32)
    parts = {"first": [first], "bank": [bank], "second": [second]}
    with Timeline(parts, lambda: clock.now, lambda start, end: end - start) as timeline:
        # the first part has no input with a gradient, the second has two, one by name
        x = first(torch.ones(3))["output"]
        second_input = bank()["output"]
        y = second(x, bias=second_input)["output"]
        loss = Work.apply(clock, 64, 128, y).sum()
        loss.backward()
        timeline.mark("optimizer")
        clock.now += 256
    assert timeline.milliseconds() == {"first": 3, "bank": 12, "second": 48, "other": 192, "optimizer": 256}
    assert all(part.weight.grad is not None for part in (first, bank, second))


def test_a_part_that_runs_twice_counts_both_times(clock):
    first, second = Part(clock, 1, 2), Part(clock, 16, 32)
    with Timeline(
        {"first": [first], "second": [second]}, lambda: clock.now, lambda start, end: end - start
    ) as timeline:
        pages, crops = (second(first(torch.ones(3))["output"])["output"] for _ in range(2))
        (pages + crops).sum().backward()
    assert timeline.milliseconds() == {"first": 6, "second": 96, "other": 0}


def test_modules_of_a_part_that_follow_each_other(clock):
    body, head = Part(clock, 1, 2), Part(clock, 4, 8)
    with Timeline({"both": [body, head]}, lambda: clock.now, lambda start, end: end - start) as timeline:
        head(body(torch.ones(3))["output"])["output"].sum().backward()
    assert timeline.milliseconds() == {"both": 15, "other": 0}


def test_nothing_is_left_on_the_modules(clock):
    part = Part(clock, 1, 2)
    with Timeline({"part": [part]}) as timeline:
        part(torch.ones(3))["output"].sum().backward()
    found = timeline.milliseconds()
    part(torch.ones(3))["output"].sum().backward()
    assert timeline.milliseconds() == found
    assert set(found) == {"part", "other"}
    assert min(found.values()) > 0
