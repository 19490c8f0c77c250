"""Training in bfloat16 without losing the steps that bfloat16 cannot hold."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy


class MasterWeights(Precision):
    """Weights, gradients and moments in fp32, forward and backward in bf16, on copies that FSDP2 makes unit by unit.

    In place of `precision: bf16-mixed`, whose autocast keeps embeddings, norms and with them the residual streams in
    fp32, and of `bf16-true`, whose weights swallow small steps (see `lost_share`). The mixing parameters of a topology
    are fp32 throughout. It needs `ModelParallelStrategy`, of one process or more.
    """

    # the nearest of Lightning's names, for what asks a trainer; there is no autocast
    precision = "bf16-mixed"

    def policy(self) -> MixedPrecisionPolicy:
        """What FSDP2 does to a unit: bf16 to compute in, fp32 to add gradients in.

        Inputs stay as they are: to cast them FSDP2 copies the `Context`, and what a sublayer writes there is lost.
        """
        return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)


def lost_share(groups: Iterable[Mapping[str, Any]]) -> float:
    """The share of the weights that a step as long as the learning rate does not move, because it is rounded off.

    Adam's steps are about as long as the rate, and shorter where gradients disagree. A weight w stays if the rate is
    below half the distance to its neighbour, eps 2^(floor(log2 |w|) - 1): in bf16, where eps is 2^-7, if it is below
    |w| / 512 at least. Formats of more than 16 bits round off no step that is in use.

    Args:
        groups: an optimizer's; those without `betas` are not Adam's, and are left out.

    Returns:
        in [0, 1]; 0 without weights.
    """
    lost = total = 0
    for group in groups:
        if "betas" not in group:
            continue
        rate = max(float(group["lr"]), float(group.get("initial_lr", 0.0)))
        for weight in group["params"]:
            own = weight.detach()
            own = own.to_local() if hasattr(own, "to_local") else own
            total += own.numel()
            if torch.finfo(own.dtype).bits <= 16:
                lost += int(_stays(own, rate).sum())
    return lost / total if total else 0.0


def _stays(weight: Tensor, rate: float) -> Tensor:
    mantissa, exponent = torch.frexp(weight.float())
    half = torch.ldexp(torch.full_like(mantissa, torch.finfo(weight.dtype).eps / 4), exponent)
    return (half > rate) & (weight != 0)
