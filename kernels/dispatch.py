"""What every operation checks before it runs: which code was asked for, and whether the arguments fit."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from kernels import registration

Implementation = Literal["auto", "reference", "native", "triton"]
Last = Literal["rows", "columns"]

Backward = TypeVar("Backward", bound=Callable[..., Any])

MAX_STREAMS = 8
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def require_implementation(operation: str, impl: str) -> None:
    """Accept the name of an implementation.

    Raises:
        ValueError: `impl` is not one of "auto", "reference", "native", "triton".
        RuntimeError: Triton kernels were asked for by name, and Triton is not installed.
    """
    if impl not in ("auto", "reference", "native", "triton"):
        raise ValueError(f"{operation}: impl must be 'auto', 'reference', 'native' or 'triton', got {impl!r}")
    if impl == "triton" and not registration.installed():
        raise RuntimeError(f"{operation}: impl='triton' was asked for, but Triton is not installed")


def triton_runs(tensor: Tensor) -> bool:
    """Whether a Triton kernel can take this tensor: on a GPU with Triton, or on CPU under its interpreter; not fp64."""
    return registration.available(tensor) and tensor.dtype in TRITON_DTYPES


def require_triton(operation: str, tensor: Tensor) -> None:
    """Refuse what Triton kernels cannot take; there is no fallback from an explicit choice.

    Raises:
        RuntimeError: Triton is not installed, or the tensor is on CPU outside Triton's interpreter.
        ValueError: a dtype that the kernels, which compute in fp32, do not serve.
    """
    require_implementation(operation, "triton")
    if not registration.available(tensor):
        raise RuntimeError(
            f"{operation}: impl='triton' needs a CUDA tensor, or TRITON_INTERPRET=1 (set before kernels are imported) "
            f"and a CPU tensor; got one on {tensor.device}"
        )
    require(tensor.dtype in TRITON_DTYPES, operation, "dtype", "fp32, bf16 or fp16 under impl='triton'", tensor.dtype)


def takes_triton(operation: str, impl: str, tensor: Tensor) -> bool:
    """Whether `impl` means the Triton kernel for this tensor: by name (or raise), or "auto" on a GPU that has it.

    A meta tensor has only a shape, which is the reference's whatever `impl` says: budgets are counted on those.

    Raises:
        RuntimeError, ValueError: as `require_triton`, for an explicit "triton".
    """
    if impl == "triton" and not tensor.is_meta:
        require_triton(operation, tensor)
        return True
    return impl == "auto" and tensor.is_cuda and not registration.interpreted() and triton_runs(tensor)


def require(condition: bool, operation: str, argument: str, expected: str, got: object) -> None:
    """Raise a ValueError that names the argument, what was expected and what came, unless `condition` holds."""
    if not condition:
        raise ValueError(f"{operation}: {argument} must be {expected}, got {got}")


def require_streams(operation: str, argument: str, count: int) -> None:
    """Raise a ValueError unless 1 <= `count` <= 8, the range of streams every operation serves."""
    require(1 <= count <= MAX_STREAMS, operation, argument, f"of 1 to {MAX_STREAMS} streams", count)


def require_normalisation(operation: str, steps: int, last: str, eps: float) -> None:
    """Raise a ValueError unless the arguments of Sinkhorn-Knopp are in range."""
    require(steps >= 1, operation, "steps", "at least 1", steps)
    require(last in ("rows", "columns"), operation, "last", "'rows' or 'columns'", repr(last))
    require(eps >= 0.0, operation, "eps", "0 or positive", eps)


def require_floating(operation: str, **tensors: Tensor) -> None:
    """Raise a ValueError unless every tensor is of a floating dtype and all are on one device."""
    devices = {tensor.device for tensor in tensors.values()}
    for name, tensor in tensors.items():
        require(tensor.is_floating_point(), operation, name, "of a floating dtype", tensor.dtype)
    require(len(devices) <= 1, operation, ", ".join(tensors), "on one device", ", ".join(map(str, devices)))


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype an operation computes in: fp32, or fp64 where the input is fp64."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def has_memory_here(tensor: Tensor) -> bool:
    """Whether the values can be read on CPU now: not of another device, a subclass (fake tensors, say) or a graph."""
    plain = type(tensor) in (Tensor, torch.nn.Parameter)
    return tensor.device.type == "cpu" and plain and not torch.compiler.is_compiling()


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """A context with autocast off; one that does nothing on the meta device, which has none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def backward_without_autocast(backward: Backward) -> Backward:
    """Keep the backward of an autograd function in its own precision where `.backward()` runs under autocast."""

    @functools.wraps(backward)
    def wrapped(ctx: Any, gradient: Tensor) -> Any:
        with without_autocast(gradient.device):
            return backward(ctx, gradient)

    return cast(Backward, wrapped)
