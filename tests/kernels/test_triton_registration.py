"""What the one helper gives every kernel: autograd, torch.compile, fake tensors, FLOP counts; when it refuses."""

import math
import subprocess
import sys

import pytest
import torch
from fused_cases import DEVICE, needs_triton
from helpers import gradients, random_like, relative_error
from sm90 import CALLS, SHARED_MEMORY, compiled_launches
from torch.utils.flop_counter import FlopCounterMode

from kernels import dispatch, hyper_coefficients, registration, sinkhorn

BACKEND = "inductor" if DEVICE == "cuda" else "aot_eager"


def draw(*shape):
    return torch.randn(*shape, device=DEVICE, requires_grad=True)


def calls():
    """Operation, its leaves, and FLOPs of its forward."""
    n, width = 3, 20
    k = n * (n + 2)
    coefficients = draw(2, 5, n, width), draw(n * width, k), draw(3), draw(k)
    of_sinkhorn = (2 * 4 - 1) * 2 * n * n
    yield lambda x: sinkhorn(x, steps=4, impl="triton"), (draw(7, n, n),), 7 * of_sinkhorn
    yield (
        lambda *a: hyper_coefficients(*a, steps=4, norm_eps=1e-6, impl="triton"),
        coefficients,
        10 * (2 * n * width * k + of_sinkhorn),
    )


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("index", [0, 1], ids=["sinkhorn", "hyper_coefficients"])
class TestRegistered:
    def test_compiles_into_one_graph_with_its_gradient(self, index):
        operation, inputs, _ = list(calls())[index]
        compiled = torch.compile(operation, fullgraph=True, backend=BACKEND)
        for size in (slice(None), slice(1)):  # the second call has other sizes
            given = [inputs[0][size], *inputs[1:]]
            found, expected = gradients(compiled(*given), inputs), gradients(operation(*given), inputs)
            assert all(relative_error(a, b) < 1e-6 for a, b in zip(found, expected, strict=True))

    def test_flops_of_both_directions_are_counted(self, index):
        operation, inputs, flops = list(calls())[index]
        with FlopCounterMode(display=False) as counter:
            outputs = operation(*inputs)
        assert counter.get_total_flops() == flops
        with FlopCounterMode(display=False) as counter:
            gradients(outputs, inputs)
        assert counter.get_total_flops() in (2 * flops, 3 * flops)

    def test_runs_on_fake_tensors(self, index):
        operation, inputs, _ = list(calls())[index]
        outputs = operation(*inputs)
        with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = operation(*(mode.from_tensor(tensor) for tensor in inputs))
        for a, b in zip(as_list(fake), as_list(outputs), strict=True):
            assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)

    def test_a_second_derivative_is_refused(self, index):
        operation, inputs, _ = list(calls())[index]
        outputs = as_list(operation(*inputs))
        first = torch.autograd.grad(outputs, inputs, list(map(random_like, outputs)), create_graph=True)
        with pytest.raises(RuntimeError, match="backward"):
            torch.autograd.grad(first[0].sum(), inputs)


def as_list(outputs):
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


@pytest.mark.gpu
@needs_triton
def test_opcheck():
    from kernels.hyper_coefficients import triton as coefficients
    from kernels.sinkhorn import triton as matrices

    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    logits = draw(7, 3, 3)
    options = 4, False, 0.0
    torch.library.opcheck(matrices._sinkhorn, (logits, *options), test_utils=tests)
    torch.library.opcheck(
        matrices._sinkhorn_backward, (torch.ones_like(logits), logits.detach(), *options), test_utils=tests
    )
    weights = draw(60, 15), draw(3), draw(15)
    x = draw(1, 7, 3, 20)
    torch.library.opcheck(coefficients._forward, (x, *weights, *options, 1e-6, "tf32"), test_utils=tests)
    tensors = torch.rand(7, 3), torch.rand(7, 3), torch.rand(7, 3, 3), x, *weights, torch.rand(7, 16)
    given = [tensor.detach().to(DEVICE) for tensor in tensors]
    torch.library.opcheck(coefficients._backward, (*given, *options, "tf32"), test_utils=tests)


@pytest.mark.parametrize("module", CALLS)
def test_every_kernel_compiles_for_hopper_without_a_gpu(module):
    pytest.importorskip("triton")
    launches = compiled_launches(module)
    kernels = {launch["kernel"] for launch in launches}
    assert len(kernels) == {"kernels.sinkhorn": 2, "kernels.aggregate": 2, "kernels.combine": 2}.get(module, 5)
    assert all(launch["shared"] <= SHARED_MEMORY for launch in launches)
    # at the size that models use; spills are the compiler's choice, and its versions differ by tens of bytes a thread
    assert [launch for launch in launches if launch["N"] == 4 and launch["spilled"] > 256] == []


@needs_triton
def test_auto_never_takes_the_interpreter():
    tensor = torch.zeros(1, 2, 2)
    assert not dispatch.takes_triton("sinkhorn", "auto", tensor)
    if registration.interpreted():
        assert dispatch.triton_runs(tensor)
        assert dispatch.takes_triton("sinkhorn", "triton", tensor)


@needs_triton
def test_triton_is_refused_where_it_cannot_run(monkeypatch):
    tensor = torch.zeros(1, 2, 2)
    with pytest.raises(ValueError, match=r"sinkhorn: dtype must be fp32.*float64"):
        sinkhorn(tensor.double().to(DEVICE), impl="triton")
    monkeypatch.setattr(registration, "_INTERPRETED", False)
    with pytest.raises(RuntimeError, match=r"sinkhorn: impl='triton' needs a CUDA tensor.*cpu"):
        sinkhorn(tensor, impl="triton")
    # of a meta tensor there is only a shape to compute: budgets count on those, whatever the code
    assert sinkhorn(tensor.to("meta"), impl="triton").shape == tensor.shape
    monkeypatch.setattr(registration, "_INSTALLED", False)
    with pytest.raises(RuntimeError, match=r"sinkhorn: .*Triton is not installed"):
        sinkhorn(tensor, impl="triton")


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import importlib.util
importlib.util.find_spec = lambda name, plain=importlib.util.find_spec: None if name == "triton" else plain(name)
import torch, kernels
kernels.hyper_coefficients(torch.randn(2, 4, 5), torch.randn(20, 24), torch.ones(3), torch.zeros(24))
try:
    kernels.sinkhorn(torch.zeros(1, 4, 4), impl="triton")
except RuntimeError as error:
    print(error)
"""


def test_kernels_work_where_triton_is_absent():
    run = subprocess.run([sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True, check=True)
    assert "Triton is not installed" in run.stdout


@pytest.mark.skipif(not registration.interpreted(), reason="not interpreted")
def test_the_interpreter_rounds_to_bf16_and_multiplies_it_as_hardware_does():
    import triton
    from triton import language as tl

    @triton.jit
    def kernel(a, b, rounded, total, SIZE: tl.constexpr):
        at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None]
        left, right = tl.load(a + at).to(tl.bfloat16), tl.load(b + at).to(tl.bfloat16)
        tl.store(rounded + at, left)
        tl.store(total + at, tl.dot(left, right))

    a, b, total = torch.randn(16, 16), torch.randn(16, 16), torch.empty(16, 16)
    rounded = torch.empty(16, 16, dtype=torch.bfloat16)
    from kernels.interpreter import mend

    mend()
    kernel[(1,)](a, b, rounded, total, 16)
    assert torch.equal(rounded, a.bfloat16())
    assert relative_error(total, a.bfloat16().float() @ b.bfloat16().float()) < 1e-6
    assert math.isfinite(total.sum())
