"""A flat list of sublayers, each with a residual topology of its own."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mhc import recompute as rebuilding
from mhc.context import Context, KeyValueCache
from mhc.recompute import Recompute
from mhc.topology import ResidualTopology

__all__ = ["Context", "KeyValueCache", "Trunk"]


class Trunk(nn.Module):
    """Run sublayers on a residual state: expand, then aggregate, sublayer, combine for each, then reduce.

    Neighbours are joined through `combine_aggregate`; no topology is asked what it is.

    Args:
        sublayers: modules (x [B, S, C], context) -> [B, S, C], pre-norm inside.
        topologies: one per sublayer.
        exit: state -> [B, S, C] in place of the last topology's `reduce`, for exits that learn.
        recompute: in training keep the state once every so many sublayers and rebuild it from the sublayers' outputs,
            which no sublayer is run again for; "auto" takes the number that keeps least, None keeps every state.

    Raises:
        ValueError: no sublayers, not as many topologies, or a wrong `recompute`.
    """

    def __init__(
        self,
        sublayers: Iterable[nn.Module],
        topologies: Iterable[ResidualTopology],
        exit: Callable[[Any], Tensor] | None = None,
        *,
        recompute: Recompute = None,
    ) -> None:
        super().__init__()
        self.sublayers = nn.ModuleList(sublayers)
        self.topologies = nn.ModuleList(topologies)
        self.exit = exit
        if not 0 < len(self.sublayers) == len(self.topologies):
            raise ValueError(
                f"a trunk needs at least one sublayer and a topology for each, got {len(self.sublayers)} "
                f"and {len(self.topologies)}"
            )
        rebuilding.require_recompute(recompute)
        self.recompute = recompute
        if recompute is not None:
            rebuilding.prepare(list(self.sublayers))

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """[B, S, C] -> [B, S, C]."""
        context = context or Context()
        topologies: list[ResidualTopology] = list(self.topologies)  # type: ignore[arg-type]
        state = topologies[0].expand(x)
        if self.recompute is not None and torch.is_grad_enabled():
            every = self.recompute
            if every == "auto":
                every = rebuilding.best_interval(len(topologies), rebuilding.streams_in(state, x))
            return self._leave(rebuilding.run_segments(list(self.sublayers), topologies, state, context, every))
        x, carry = topologies[0].aggregate(state)
        for index, (sublayer, topology) in enumerate(zip(self.sublayers, topologies, strict=True)):
            if context.observe is not None:
                context.observe(index, topology, state, carry)
            context.index = index
            y = sublayer(x, context)
            if index + 1 < len(topologies):
                state, x, carry = topology.combine_aggregate(state, y, carry, topologies[index + 1])
            else:
                state = topology.combine(state, y, carry)
        return self._leave(state)

    def _leave(self, state: Any) -> Tensor:
        return self.topologies[-1].reduce(state) if self.exit is None else self.exit(state)  # type: ignore[operator]
