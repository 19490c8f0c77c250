"""The base of metrics that are a mean over pages, tables or boxes."""

import torch
from torch import Tensor
from torchmetrics import Metric


class Mean(Metric):
    """Sum / count over all processes; NaN where nothing was counted."""

    full_state_update = False
    is_differentiable = False
    total: Tensor
    count: Tensor

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def add(self, value: float, count: float = 1) -> None:
        """Count a value, or the sum of several."""
        self.total += value
        self.count += count

    def compute(self) -> Tensor:
        """The mean."""
        return self.total / self.count
