"""Which experts a router chose: the loss that balances their load (arXiv 2401.06066, section 3.3) and statistics."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Routing:
    """What the router of one sublayer decided.

    Attributes:
        index: of the sublayer in its trunk.
        probabilities: of all experts, [B, S, E] in fp32 (fp64 for an fp64 model).
        chosen: numbers of the experts that a token went to, int64 [B, S, k]; a number that no expert has is a choice
            that was dropped.
    """

    index: int
    probabilities: Tensor
    chosen: Tensor


def load_balancing_loss(
    routing: Routing, *, per: Literal["sequence", "batch"] = "sequence", mask: Tensor | None = None
) -> Tensor:
    """sum_e f_e P_e with f_e = E / (k T) count_e and P_e = mean_t p_e over T tokens; 1 where both are uniform.

    The counts are numbers, the gradient is that of the probabilities. Its weight alpha is the caller's.

    Args:
        routing: of one sublayer.
        per: "sequence" takes T as the tokens of a sequence and the mean over sequences, "batch" all tokens together.
        mask: [B, S], True where a token is real; padding does not count, nor a sequence of nothing else.

    Returns:
        A scalar; 0 without tokens.

    Raises:
        ValueError: an unknown `per`, or a mask of another shape.
    """
    if per not in ("sequence", "batch"):
        raise ValueError(f"per must be 'sequence' or 'batch', got {per!r}")
    real_BS = _real_tokens(routing, mask)
    counts_BE = _counts(routing, real_BS)
    mass_BE = (real_BS[..., None] * routing.probabilities).sum(1)  # no product that autocast would narrow
    tokens_B1 = real_BS.sum(1, keepdim=True)
    if per == "batch":
        counts_BE, mass_BE, tokens_B1 = (each.sum(0, keepdim=True) for each in (counts_BE, mass_BE, tokens_B1))
    experts, chosen = routing.probabilities.shape[-1], routing.chosen.shape[-1]
    size_B1 = tokens_B1.clamp(min=1).to(mass_BE.dtype)
    loss_B = (counts_BE * (experts / chosen) / size_B1 * (mass_BE / size_B1)).sum(1)
    return loss_B.sum() / (tokens_B1 > 0).sum().clamp(min=1)


@torch.no_grad()
def router_statistics(routing: Routing, mask: Tensor | None = None) -> dict[str, Tensor]:
    """How evenly the experts are used: scalars by name.

    | name | meaning | balanced |
    |---|---|---|
    | largest_load, smallest_load | share of all choices that the busiest and the idlest expert took, times E | 1 |
    | load_variation | standard deviation of the experts' shares over their mean | 0 |
    | entropy_of_mean | of the mean probabilities over tokens, in nats | log E |
    | mean_entropy | of a token's probabilities, mean over tokens, in nats; small where the router is sure | - |
    | dropped | share of the choices that no expert took | 0 |

    Args:
        routing: of one sublayer.
        mask: [B, S], True where a token is real; padding does not count.

    Raises:
        ValueError: a mask of another shape.
    """
    real_BS = _real_tokens(routing, mask)
    counts_E = _counts(routing, real_BS).sum(0)
    share_E = counts_E / counts_E.mean().clamp(min=torch.finfo(counts_E.dtype).tiny)
    weight_BS = real_BS.to(routing.probabilities.dtype)
    tokens = weight_BS.sum().clamp(min=1)
    mean_E = (weight_BS[..., None] * routing.probabilities).sum((0, 1)) / tokens
    choices = real_BS.sum() * routing.chosen.shape[-1]
    return {
        "largest_load": share_E.max(),
        "smallest_load": share_E.min(),
        "load_variation": share_E.std(correction=0),
        "entropy_of_mean": _entropy(mean_E),
        "mean_entropy": (_entropy(routing.probabilities) * weight_BS).sum() / tokens,
        "dropped": (choices - counts_E.sum()) / choices.clamp(min=1),
    }


def _real_tokens(routing: Routing, mask: Tensor | None) -> Tensor:
    if mask is None:
        return torch.ones(routing.chosen.shape[:2], dtype=torch.bool, device=routing.chosen.device)
    if mask.shape != routing.chosen.shape[:2]:
        raise ValueError(f"mask must be [B, S] = {list(routing.chosen.shape[:2])}, got {list(mask.shape)}")
    return mask.bool()


def _counts(routing: Routing, real_BS: Tensor) -> Tensor:
    """How many choices of real tokens each expert took, [B, E]; a bin more is for what none took."""
    batch, _, experts = routing.probabilities.shape
    chosen_BN = torch.where(real_BS[:, :, None], routing.chosen, experts).flatten(1)
    chosen_BN = torch.where((chosen_BN >= 0) & (chosen_BN < experts), chosen_BN, experts)
    counts = routing.probabilities.new_zeros(batch, experts + 1)
    return counts.scatter_add_(1, chosen_BN, torch.ones_like(chosen_BN, dtype=counts.dtype))[:, :-1]


def _entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(-1)
