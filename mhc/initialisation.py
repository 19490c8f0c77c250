"""Where the weights of a transformer's sublayers start."""

import math
from collections.abc import Iterable

import torch
from torch import nn

_WRITING = ("output", "down")


@torch.no_grad()
def initialise(sublayers: Iterable[nn.Module], depth: int, std: float = 0.02) -> None:
    """Set the weights of sublayers to this table; what is not in it stays as it was made.

    | parameter | start |
    |---|---|
    | linear | normal, `std` |
    | linear that writes to the residual (named `output` or `down`) | normal, `std` / sqrt(2 depth) |
    | bias of a linear | 0 |
    | module with a method `initialise(std, output_std)` | its own, with these two |

    The root keeps the residual's variance from growing with depth (GPT-2's report, section 2.3).

    Args:
        sublayers: of a trunk, in order.
        depth: blocks; each is an attention and a feed-forward sublayer.
        std: of weights that do not write to the residual.

    Raises:
        ValueError: `depth` below 1.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    output_std = std / math.sqrt(2 * depth)
    for sublayer in sublayers:
        for name, module in sublayer.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=output_std if name.rpartition(".")[2] in _WRITING else std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # after the linears, since a module knows its own linears better
        for module in sublayer.modules():
            own = getattr(module, "initialise", None)
            if callable(own):
                own(std, output_std)
