"""What a model costs before anything has run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Cost of a model.

    Attributes:
        parameters: trainable and frozen, a tied weight once.
        flops_per_token: of a training step (forward and backward) over the tokens in it; a multiply-add is 2, matrix
            products alone are counted, causal attention as if it were full.
    """

    parameters: int
    flops_per_token: float
