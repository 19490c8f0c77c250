"""Which parameters take weight decay."""

from collections.abc import Callable
from typing import Any

from torch import nn


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Split the trainable parameters for an optimizer: those that decay at its own rate, then those that never do.

    Matrices decay. Embeddings, vectors and scalars (norms, biases, gates) do not, nor what a module names in
    `no_weight_decay()`, as Hyper-Connections do with their static mixing parameters (arXiv 2409.19606, section 3.1).

    Returns:
        [{"params": decaying}, {"params": others, "weight_decay": 0.0}], each parameter once, tied ones too.
    """
    exempt: set[int] = set()
    for part in module.modules():
        no_weight_decay: Callable[[], set[str]] = getattr(part, "no_weight_decay", set)
        named = no_weight_decay()
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.dim() < 2 or isinstance(part, nn.Embedding) or name in named:
                exempt.add(id(parameter))
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trainable if id(parameter) not in exempt]},
        {"params": [parameter for parameter in trainable if id(parameter) in exempt], "weight_decay": 0.0},
    ]
