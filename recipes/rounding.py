"""Steps that weights of few bits round off; reports need the limit and no torch."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# a step as a part of the learning rate: Adam's are shorter where gradients disagree, and schedules end about there
USUAL = 0.1
# share of the weights from which on a run says what it loses
NOTICED = 0.01


def lost_share(groups: Iterable[Mapping[str, Any]], length: float = USUAL) -> float:
    """The share of the weights that a step of `length` times the learning rate does not move: it is rounded off.

    A weight w stays if the step is below half the distance to its neighbour, eps 2^(floor(log2 |w|) - 1): in bf16,
    where eps is 2^-7, if it is below |w| / 512 at least. Formats of more than 16 bits round off no step that is in use.

    Args:
        groups: an optimizer's; those without `betas` are not Adam's, whose steps the rate bounds, and are left out.
        length: of a step, in learning rates.

    Returns:
        in [0, 1]; 0 without weights.
    """
    import torch

    lost = total = 0
    for group in groups:
        if "betas" not in group:
            continue
        step = length * max(float(group["lr"]), float(group.get("initial_lr", 0.0)))
        for weight in group["params"]:
            own = weight.detach()
            own = own.to_local() if hasattr(own, "to_local") else own
            total += own.numel()
            if torch.finfo(own.dtype).bits <= 16:
                lost += int(_stays(own, step).sum())
    return lost / total if total else 0.0


def notice(share: float) -> str:
    """What a `lost_share` means and what to do about it, in a sentence; nothing where it is below `NOTICED`."""
    if share < NOTICED:
        return ""
    return (
        f"{share:.0%} of the weights are too coarse for a step of a tenth of the learning rate, and round it off; "
        "train with trainer.precision bf16-mixed, or under FSDP2 with trainer.plugins recipes.precision.MasterWeights"
    )


def _stays(weight: "Tensor", step: float) -> "Tensor":
    import torch

    mantissa, exponent = torch.frexp(weight.float())
    half = torch.ldexp(torch.full_like(mantissa, torch.finfo(weight.dtype).eps / 4), exponent)
    return (half > step) & (weight != 0)
