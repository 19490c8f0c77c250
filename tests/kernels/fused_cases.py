"""What the tests of fused kernels share: every pair of sizes, poisoned memory, the budget of errors."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from helpers import outputs_and_gradients, relative_error
from torch import Tensor

from kernels.registration import available

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(
    not available(torch.empty(0, device=DEVICE)), reason="Triton has neither a GPU nor its interpreter"
)

# the interpreter's programs take 128 tokens and are two at least: 300 are more than one round of them, and 520 several
# blocks of the width
TOKENS, WIDTHS, STREAMS = (1, 63, 300), (5, 48, 129, 520), (2, 3, 4, 8)
if DEVICE == "cuda":
    TOKENS, WIDTHS = (1, 63, 500), (5, 48, 129, 1000)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# every value of each meets every value of every other, in 16 of the 144 cases
PAIRS = [
    pytest.param(
        TOKENS[(i + j) % 3], STREAMS[j], WIDTHS[i], DTYPES[(i + 2 * j) % 3],
        id=f"{TOKENS[(i + j) % 3]}x{STREAMS[j]}x{WIDTHS[i]}-{str(DTYPES[(i + 2 * j) % 3])[6:]}",
    )
    for i in range(4)
    for j in range(4)
]  # fmt: skip
# what fp32 sums of another order may differ by where the plain version happens to be nearly exact
FLOOR = 1e-6


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that nobody has written is NaN."""
    plain = torch.empty

    def empty(*arguments, **options) -> Tensor:
        tensor = plain(*arguments, **options)
        return tensor.fill_(math.nan) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", empty)


def assert_within_twice(
    fused: Callable[..., Tensor | Sequence[Tensor]],
    plain: Callable[..., Tensor | Sequence[Tensor]],
    exact: Callable[..., Tensor | Sequence[Tensor]],
    arguments: dict[str, Tensor],
) -> None:
    """Outputs and all gradients, random upstream, are at most twice as far from `exact` in fp64 as those of `plain`."""
    on_device = {name: tensor.to(DEVICE) for name, tensor in arguments.items()}
    found, budget = (outputs_and_gradients(function, on_device) for function in (fused, plain))
    truth = outputs_and_gradients(exact, arguments, torch.float64)
    over = {}
    for name, expected in truth.items():
        assert found[name].dtype == budget[name].dtype, name
        error, allowed = (relative_error(results[name].cpu(), expected) for results in (found, budget))
        if not error <= 2 * allowed + FLOOR:
            over[name] = f"{error:.2e}, plain {allowed:.2e}"
    assert not over, f"more than twice the error of the plain version: {over}"
