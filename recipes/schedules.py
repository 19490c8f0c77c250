"""Learning-rate schedules, per optimizer step."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Linear warm-up, then a half cosine down to a floor, which holds after the last step.

    Step k (from 0) has the optimizer's rate times (k + 1) / warmup_steps while k < warmup_steps, then times
    floor + (1 - floor) (1 + cos(pi (k - warmup_steps) / (steps - warmup_steps))) / 2.

    Args:
        optimizer: whose rates are scaled.
        warmup_steps: steps of the warm-up; 0 for none.
        steps: of the whole schedule, the warm-up included.
        floor: last factor, from 0 to 1.

    Raises:
        ValueError: not 0 <= warmup_steps < steps, or a floor outside 0 to 1.
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int, steps: int, floor: float = 0.1) -> None:
        if not 0 <= warmup_steps < steps:
            raise ValueError(f"warmup_steps must be from 0 to below steps, got {warmup_steps} and steps {steps}")
        if not 0 <= floor <= 1:
            raise ValueError(f"floor must be from 0 to 1, got {floor}")

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            done = min((step - warmup_steps) / (steps - warmup_steps), 1.0)
            return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2

        super().__init__(optimizer, factor)
