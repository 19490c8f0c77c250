"""Training in bfloat16 on weights that keep every step."""

import torch
from lightning.pytorch.plugins.precision import Precision
from torch.distributed.fsdp import MixedPrecisionPolicy


class MasterWeights(Precision):
    """Weights, gradients and moments in fp32, forward and backward in bf16, on copies that FSDP2 makes unit by unit.

    In place of `precision: bf16-mixed`, whose autocast keeps embeddings, norms and with them the residual streams in
    fp32, and of `bf16-true`, whose weights swallow small steps (see `recipes.rounding`). The mixing parameters of a
    topology are fp32 throughout. It needs `ModelParallelStrategy`, of one process or more.
    """

    # the nearest of Lightning's names, for what asks a trainer; there is no autocast
    precision = "bf16-mixed"

    def policy(self) -> MixedPrecisionPolicy:
        """What FSDP2 does to a unit: bf16 to compute in, fp32 to add gradients in.

        Inputs stay as they are: to cast them FSDP2 copies the `Context`, and what a sublayer writes there is lost.
        """
        return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
