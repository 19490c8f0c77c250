"""The operations on an NVIDIA GPU: `make gpu`."""

import pytest
import torch
from helpers import assert_close, outputs_and_gradients

from kernels import aggregate, combine, hyper_coefficients, sinkhorn

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU on this machine"),
]

TOKENS, N, C = 63, 4, 129


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("operation", "shapes"),
    [
        (sinkhorn, {"logits": (TOKENS, N, N)}),
        (
            hyper_coefficients,
            {"x": (TOKENS, N, C), "phi": (N * C, N * (N + 2)), "alpha": (3,), "bias": (N * (N + 2),)},
        ),
        (aggregate, {"x": (TOKENS, N, C), "pre": (TOKENS, N)}),
        (combine, {"x": (TOKENS, N, C), "y": (TOKENS, C), "post": (TOKENS, N), "res": (TOKENS, N, N)}),
    ],
    ids=["sinkhorn", "hyper_coefficients", "aggregate", "combine"],
)
def test_forward_and_every_gradient_on_the_gpu_equal_fp64_on_the_cpu(operation, shapes):
    truth = {name: draw(*shape) for name, shape in shapes.items()}
    on_gpu = {name: tensor.float().cuda() for name, tensor in truth.items()}
    found = {name: tensor.cpu() for name, tensor in outputs_and_gradients(operation, on_gpu).items()}
    # fp32 sums of up to 516 terms, TF32 off as torch has it by default
    assert_close(found, outputs_and_gradients(operation, truth), 2e-5)
