"""Feed-forward sublayers: position-wise, pre-norm inside."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from mhc.context import Context
from mhc.description import Described
from mhc.norm import RMSNorm


class FeedForward(Described):
    """W_down f(W_up norm(x)).

    Args:
        width: C.
        hidden: width of the hidden layer.
        activation: f; GELU by the error function.
        bias: of both layers.
        norm: makes the norm from its width.

    Raises:
        ValueError: `hidden` below 1.
    """

    def __init__(
        self,
        width: int,
        *,
        hidden: int,
        activation: Callable[[Tensor], Tensor] = F.gelu,
        bias: bool = False,
        norm: Callable[[int], nn.Module] = RMSNorm,
    ) -> None:
        super().__init__()
        require_hidden(hidden)
        self.activation = activation
        self.norm = norm(width)
        self.up = nn.Linear(width, hidden, bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """[B, S, C] -> [B, S, C]; the context is not read."""
        return self.down(self.activation(self.up(self.norm(x))))


class SwiGLU(Described):
    """W_down (silu(W_gate norm(x)) * W_up norm(x)) (arXiv 2002.05202).

    Args:
        width: C.
        hidden: width of the hidden layer.
        norm: makes the norm from its width.

    Raises:
        ValueError: `hidden` below 1.
    """

    def __init__(self, width: int, *, hidden: int, norm: Callable[[int], nn.Module] = RMSNorm) -> None:
        super().__init__()
        require_hidden(hidden)
        self.norm = norm(width)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """[B, S, C] -> [B, S, C]; the context is not read."""
        x = self.norm(x)
        return self.down(F.silu(self.gate(x)) * self.up(x))


def require_hidden(hidden: int) -> None:
    """Raise a ValueError unless the hidden layer has at least one unit."""
    if hidden < 1:
        raise ValueError(f"hidden must be at least 1, got {hidden}")
