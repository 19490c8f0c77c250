"""The C code of Sinkhorn: where it runs, where it refuses, and that nothing depends on it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import relative_error
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels import sinkhorn
from kernels.native import compiler
from kernels.sinkhorn import native

ROOT = Path(__file__).parents[2]
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler")


@needs_compiler
def test_auto_takes_the_compiled_code_for_fp32_on_cpu():
    assert native.can_run(torch.zeros(1, 4, 4))
    assert not native.can_run(torch.zeros(1, 4, 4, dtype=torch.float64))
    assert not native.can_run(torch.zeros(1, 4, 4, device="meta"))


@pytest.mark.parametrize(("dtype", "device"), [(torch.float64, "cpu")])
def test_an_explicit_native_raises_where_it_cannot_run(dtype, device):
    with pytest.raises(RuntimeError, match="impl='native'"):
        sinkhorn(torch.zeros(2, 4, 4, dtype=dtype, device=device), impl="native")


def test_tensors_without_memory_take_the_reference():
    assert sinkhorn(torch.zeros(2, 4, 4, device="meta")).shape == (2, 4, 4)
    with FakeTensorMode():
        logits = torch.zeros(2, 4, 4, requires_grad=True)
        sinkhorn(logits).sum().backward()
        assert logits.grad.shape == (2, 4, 4)


@needs_compiler
def test_memory_beyond_the_tensors_is_left_alone():
    # 17 matrices are a block of lanes and one more; the guards on both sides are poisoned
    for count in (1, 17):
        for last in ("rows", "columns"):
            guarded = torch.full((count + 32, 4, 4), float("nan"))
            guarded[16:-16] = torch.randn(count, 4, 4)
            result = torch.full((count + 32, 4, 4), float("nan"))
            native._call("sinkhorn_forward", 4, (guarded[16:-16], result[16:-16]), 20, last, 0.0)
            assert torch.isfinite(result[16:-16]).all()
            assert result[:16].isnan().all()
            assert result[-16:].isnan().all()
            native._call("sinkhorn_backward", 4, (guarded[16:-16], guarded[16:-16], result[16:-16]), 20, last, 0.0)
            assert torch.isfinite(result[16:-16]).all()
            assert result[:16].isnan().all()
            assert result[-16:].isnan().all()


@needs_compiler
def test_a_nan_stays_in_its_own_matrix(impl):
    logits = torch.randn(40, 4, 4)
    clean = sinkhorn(logits, impl=impl)
    logits[7, 1, 2] = float("nan")
    result = sinkhorn(logits, impl=impl)
    assert result[7].isnan().any()
    others = torch.arange(40) != 7
    assert relative_error(result[others], clean[others]) < 1e-6


SCRIPT = """
import os
os.environ["CC"] = os.environ["PATH"] = "/nowhere"
import torch
from kernels import sinkhorn
from kernels.sinkhorn import native
assert not native.can_run(torch.zeros(1, 4, 4))
logits = torch.zeros(1, 4, 4, requires_grad=True)
sinkhorn(logits).square().sum().backward()
try:
    sinkhorn(logits, impl="native")
except RuntimeError as error:
    print(error)
"""


def test_a_machine_without_a_compiler_runs_the_reference():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "impl='native' needs a C compiler" in run.stdout
    assert not run.stderr
