"""Root-mean-square norm."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mhc.description import Described


class RMSNorm(Described):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (arXiv 1910.07467).

    Args:
        width: size of the last dimension.
        eps: added to the mean square.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [..., width]."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
