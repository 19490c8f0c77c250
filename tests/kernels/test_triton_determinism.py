"""The fused operations give the same bits in every run, forward and backward: 20 runs on a GPU, 3 interpreted."""

from functools import partial

import pytest
import torch
from fused_cases import DEVICE, needs_triton
from helpers import outputs_and_gradients

from kernels import aggregate, combine, combine_aggregate, hyper_coefficients, sinkhorn

pytestmark = [pytest.mark.gpu, needs_triton]

RUNS = 20 if DEVICE == "cuda" else 3
# sizes where several programs share every sum
TOKENS, WIDTH = (5000, 1000) if DEVICE == "cuda" else (130, 40)
N, COLUMNS = 4, 24
SHAPES = {
    sinkhorn: {"logits": (TOKENS, N, N)},
    hyper_coefficients: {"x": (TOKENS, N, WIDTH), "phi": (N * WIDTH, COLUMNS), "alpha": (3,), "bias": (COLUMNS,)},
    aggregate: {"x": (TOKENS, N, WIDTH), "pre": (TOKENS, N)},
    combine: {"x": (TOKENS, N, WIDTH), "y": (TOKENS, WIDTH), "post": (TOKENS, N), "res": (TOKENS, N, N)},
    combine_aggregate: {
        "x": (TOKENS, N, WIDTH), "y": (TOKENS, WIDTH), "post": (TOKENS, N), "res": (TOKENS, N, N),
        "phi": (N * WIDTH, COLUMNS), "alpha": (3,), "bias": (COLUMNS,),
    },
}  # fmt: skip


def run(operation) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    options = {} if operation in (aggregate, combine) else {"steps": 3}
    arguments = {
        name: torch.randn(shape, generator=generator).to(DEVICE, torch.bfloat16 if name in "xy" else torch.float32)
        for name, shape in SHAPES[operation].items()
    }
    return outputs_and_gradients(partial(operation, impl="triton", **options), arguments)


@pytest.mark.parametrize("operation", SHAPES, ids=lambda operation: operation.__name__)
def test_every_run_gives_the_same_bits(operation):
    first = run(operation)
    for _ in range(RUNS - 1):
        again = run(operation)
        different = [name for name in first if not torch.equal(first[name], again[name])]
        assert not different


@pytest.mark.parametrize("operation", SHAPES, ids=lambda operation: operation.__name__)
@pytest.mark.skipif(DEVICE != "cuda", reason="for compute-sanitizer, on a GPU")
def test_sanitized(operation):
    assert all(bool(tensor.isfinite().all()) for tensor in run(operation).values())
