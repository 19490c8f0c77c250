"""The one seam: what a residual topology is, and the plain residual."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mhc.description import Described


class ResidualTopology(Described, ABC):
    """How one sublayer reads the residual state and what its output does to it.

    The state is opaque to everyone but its topologies: [B, S, C] for the plain residual, [B, S, n, C] for n streams,
    a tuple where a topology looks back over depth. There is one instance per sublayer, made by a factory
    (width, index) -> ResidualTopology. Parameters stay in fp32 at least, whatever `.to(bfloat16)` asks.
    """

    @abstractmethod
    def expand(self, x: Tensor) -> Any:
        """Make the state from x [B, S, C], once, where the trunk begins; without parameters."""

    @abstractmethod
    def aggregate(self, state: Any) -> tuple[Tensor, Any]:
        """Read the state: (x [B, S, C] for the sublayer, carry for `combine`)."""

    @abstractmethod
    def combine(self, state: Any, y: Tensor, carry: Any) -> Any:
        """Write the sublayer's output y [B, S, C] to the state that `aggregate` read."""

    @abstractmethod
    def reduce(self, state: Any) -> Tensor:
        """Make [B, S, C] from the state, once, where the trunk ends; without parameters."""

    def forward(self, state: Any, branch: Callable[[Tensor], Tensor]) -> Any:
        """Aggregate, run the branch, combine: the drop-in use around any module [B, S, C] -> [B, S, C]."""
        x, carry = self.aggregate(state)
        return self.combine(state, branch(x), carry)

    def combine_aggregate(
        self, state: Any, y: Tensor, carry: Any, following: "ResidualTopology"
    ) -> tuple[Any, Tensor, Any]:
        """Combine here and aggregate for the following sublayer: (state, x, carry); override to fuse the two."""
        state = self.combine(state, y, carry)
        return state, *following.aggregate(state)

    def mixing(self, carry: Any) -> Tensor | None:
        """H_res [..., out, in] of this carry, which signal gain looks at; None where it is the identity."""
        return None

    def streams(self, state: Any) -> Tensor | None:
        """The state as [B, S, n, C], which stream norms look at; None where that has no meaning."""
        return None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ResidualTopology":
        def at_least_fp32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.is_floating_point() and torch.finfo(moved.dtype).bits < 32:
                return tensor.to(moved.device, torch.promote_types(tensor.dtype, torch.float32))
            return moved

        return super()._apply(at_least_fp32, recurse)


class Residual(ResidualTopology):
    """The plain residual x' = x + F(x): no stream axis, no parameters, no cost."""

    def __init__(self, width: int = 0, index: int = 0) -> None:
        super().__init__()

    def expand(self, x: Tensor) -> Tensor:
        """Return x [B, S, C] itself."""
        return x

    def aggregate(self, state: Tensor) -> tuple[Tensor, None]:
        """Return the state [B, S, C] itself."""
        return state, None

    def combine(self, state: Tensor, y: Tensor, carry: None) -> Tensor:
        """Add y to the state."""
        return state + y

    def reduce(self, state: Tensor) -> Tensor:
        """Return the state [B, S, C] itself."""
        return state

    def streams(self, state: Tensor) -> Tensor:
        """The state as its one stream, [B, S, 1, C]."""
        return state.unsqueeze(-2)


TopologyFactory = Callable[[int, int], ResidualTopology]
