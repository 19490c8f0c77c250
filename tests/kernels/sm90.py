"""Compile the kernels of an operation for sm_90 without a GPU: python tests/kernels/sm90.py kernels.sinkhorn

Operations run their own bodies on tensors of the CPU, which choose sizes and arguments as they would on a GPU; a launch
compiles and runs nothing. Prints what each launch takes of a multiprocessor. A kernel that does not compile is an
error.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
SHARED_MEMORY = 227 * 1024  # of a block, on Hopper


def compiled_launches(module: str) -> list[dict[str, Any]]:
    """What each launch takes of a multiprocessor, compiled in a process that does not interpret."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    run = subprocess.run([sys.executable, __file__, module], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def sinkhorn_calls(triton: Any) -> Iterator[None]:
    for n, steps, columns, eps, dtype in [
        (4, 20, False, 0.0, torch.float32),
        (3, 50, True, 0.0, torch.bfloat16),
        (8, 3, False, 1e-6, torch.float16),
    ]:
        logits = torch.empty(70, n, n, dtype=dtype)
        yield triton._sinkhorn(logits, steps, columns, eps)
        yield triton._sinkhorn_backward(logits, logits, steps, columns, eps)


def hyper_coefficients_calls(triton: Any) -> Iterator[None]:
    for tokens, n, width, steps, eps, precision, dtype in [
        (4096, 4, 1280, 20, 0.0, "tf32", torch.bfloat16),
        (70, 8, 129, 3, 1e-6, "bf16_split", torch.float32),
        (70, 4, 48, 3, 0.0, "ieee", torch.float16),
        (1, 1, 1, 3, 0.0, "tf32", torch.float32),  # arguments equal to 1 become constants
    ]:
        k = n * (n + 2)
        x, phi = torch.empty(1, tokens, n, width, dtype=dtype), torch.empty(n * width, k)
        rest = torch.empty(3), torch.empty(k)
        upstreams = torch.empty(tokens, n), torch.empty(tokens, n), torch.empty(tokens, n, n)
        yield triton._forward(x, phi, *rest, steps, eps > 0, eps, 1e-6, precision)
        saved = torch.empty(tokens, k + 1)
        yield triton._backward(*upstreams, x, phi, *rest, saved, steps, eps > 0, eps, precision)


def aggregate_calls(triton: Any) -> Iterator[None]:
    for tokens, n, width, dtype in [
        (4096, 4, 2560, torch.bfloat16),
        (70, 7, 129, torch.float16),
        (1, 1, 1, torch.float32),
    ]:
        x, pre = torch.empty(1, tokens, n, width, dtype=dtype), torch.empty(1, tokens, n)
        yield triton._forward(x, pre)
        yield triton._backward(x[:, :, 0], x, pre)


def combine_calls(triton: Any) -> Iterator[None]:
    for tokens, n, width, dtype in [
        (4096, 4, 2560, torch.bfloat16),
        (70, 5, 129, torch.float16),
        (1, 1, 1, torch.float32),
    ]:
        x, y = torch.empty(1, tokens, n, width, dtype=dtype), torch.empty(1, tokens, width, dtype=dtype)
        arguments = x, y, torch.empty(1, tokens, n), torch.empty(1, tokens, n, n)
        yield triton._forward(*arguments)
        yield triton._backward(x, *arguments)


def combine_aggregate_calls(triton: Any) -> Iterator[None]:
    for tokens, n, width, steps, eps, precision, dtype in [
        (4096, 4, 1280, 20, 0.0, "tf32", torch.bfloat16),
        (70, 3, 129, 3, 1e-6, "bf16_split", torch.float32),
        (1, 1, 1, 3, 0.0, "ieee", torch.float16),
    ]:
        k = n * (n + 2)
        x, y = torch.empty(1, tokens, n, width, dtype=dtype), torch.empty(1, tokens, width, dtype=dtype)
        pre, res = torch.empty(1, tokens, n), torch.empty(1, tokens, n, n)
        arguments = x, y, pre, res, torch.empty(n * width, k), torch.empty(3), torch.empty(k)
        for joined in (True, False):
            yield triton._forward(*arguments, steps, eps > 0, eps, 1e-6, precision, joined)
        saved = torch.empty(k + 1, tokens)
        yield triton._backward(x, y, pre, pre, res, *arguments, x, pre, saved, steps, eps > 0, eps, 1e-6, precision)


CALLS: dict[str, Callable[[Any], Iterator[None]]] = {
    "kernels.sinkhorn": sinkhorn_calls,
    "kernels.hyper_coefficients": hyper_coefficients_calls,
    "kernels.aggregate": aggregate_calls,
    "kernels.combine": combine_calls,
    "kernels.combine_aggregate": combine_aggregate_calls,
}


def footprint(compiled: Any) -> dict[str, int]:
    """Warps a program, registers a thread, bytes a thread that left the registers, bytes of shared memory a program."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    return {
        "warps": compiled.metadata.num_warps,
        "registers": int(found[1]),
        "spilled": int(found[2]),
        "shared": compiled.metadata.shared,
    }


def main(module: str) -> None:
    import triton
    from triton.backends.compiler import GPUTarget

    class Hopper:
        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int | None = None) -> int:
            return 0

    triton.runtime.driver.set_active(Hopper())

    class Compiled:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            def launch(*arguments: Any, **options: Any) -> None:
                compiled = self.kernel.warmup(*arguments, grid=grid, **options)
                sizes = {name: value for name, value in options.items() if name in ("N", "P", "TOKENS", "WIDTH")}
                print(json.dumps({"kernel": self.kernel.fn.__name__, **footprint(compiled), **sizes}), flush=True)

            return launch

    operations = importlib.import_module(f"{module}.triton")
    operations.wrap_triton = Compiled
    for _ in CALLS[module](operations):
        pass


if __name__ == "__main__":
    main(sys.argv[1])
