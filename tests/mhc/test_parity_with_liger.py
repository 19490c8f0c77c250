"""ManifoldHyperConnection (columns last, eps 1e-6) against Liger's three Triton functions, in a process of their own.

Triton's interpreter is chosen by an environment variable that is read when kernels are defined; on a GPU the rest of
the suite is not interpreted.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import assert_close, leaves, random_like, with_weights

from mhc import ManifoldHyperConnection

SIZES = [(5, 4, 24), (3, 2, 17), (1, 4, 64)]  # tokens, n, C
TOLERANCE = 5e-6  # both compute in fp32

SCRIPT = """
import sys, torch
from liger_kernel.ops.mhc import LigerMHCCoeffsFunction, LigerMHCPostResFunction, LigerMHCPreFunction

cases = torch.load(sys.argv[1])
for case in cases:
    given = {name: case[name].requires_grad_() for name in ("x", "y", "phi", "alpha", "bias")}
    x, y, phi, alpha, bias = given.values()
    parts = alpha.unbind()
    pre, post, res = LigerMHCCoeffsFunction.apply(x, phi, bias, *parts, True, 20, 1e-6, 1e-6, 1e-6, 2.0)
    z = LigerMHCPreFunction.apply(x, pre)
    outputs = [z, LigerMHCPostResFunction.apply(x, y, post, res), pre, post, res]
    gradients = torch.autograd.grad(outputs, given.values(), case["upstreams"])
    case["outputs"] = [output.detach() for output in outputs]
    case["gradients"] = dict(zip(given, gradients))
torch.save(cases, sys.argv[1])
"""


def ours_of(x, y, **weights) -> tuple[torch.Tensor, ...]:
    """Collapsed, next state, pre, post and res."""
    _, n, width = x.shape
    topology = ManifoldHyperConnection(width, streams=n, last="columns", eps=1e-6, norm_eps=1e-6)
    z, carry = with_weights(topology, **weights).aggregate(x)
    return z, topology.combine(x, y, carry), *carry


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> list[dict]:
    pytest.importorskip("liger_kernel")
    torch.manual_seed(0)
    made = []
    for count, n, width in SIZES:
        columns = n * (n + 2)
        case = {
            "x": 2 * torch.randn(count, n, width),
            "y": torch.randn(count, width),
            "phi": 2 * torch.randn(n * width, columns) / (n * width) ** 0.5,
            "alpha": 1 + 0.2 * torch.randn(3),
            "bias": 2 * torch.randn(columns),
        }
        shapes = [(count, width), (count, n, width), (count, n), (count, n), (count, n, n)]
        made.append(case | {"upstreams": [random_like(torch.empty(s), k) for k, s in enumerate(shapes)]})
    path: Path = tmp_path_factory.mktemp("liger") / "cases.pt"
    torch.save(made, path)
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run([sys.executable, "-c", SCRIPT, path], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return torch.load(path)


@pytest.mark.parametrize("index", range(len(SIZES)), ids=str)
def test_a_sublayer_and_its_gradients_equal_liger(cases, index):
    case = cases[index]
    names = ("x", "y", "phi", "alpha", "bias")
    given = dict(zip(names, leaves(*(case[name] for name in names)), strict=True))
    outputs = ours_of(**given)
    gradients = torch.autograd.grad(outputs, list(given.values()), case["upstreams"])
    parts = ("collapsed", "state", "pre", "post", "res")
    assert_close(dict(zip(parts, outputs, strict=True)), dict(zip(parts, case["outputs"], strict=True)), TOLERANCE)
    assert_close(dict(zip(names, gradients, strict=True)), case["gradients"], TOLERANCE)
