"""What every operation checks before it runs: which code was asked for, and whether the arguments fit."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

Implementation = Literal["auto", "reference", "native", "triton"]
Last = Literal["rows", "columns"]

Backward = TypeVar("Backward", bound=Callable[..., Any])

MAX_STREAMS = 8


def require_implementation(operation: str, impl: str) -> None:
    """Accept the name of an implementation.

    Raises:
        ValueError: `impl` is not one of "auto", "reference", "native", "triton".
        NotImplementedError: a Triton kernel was asked for by name; there is no fallback from an explicit choice.
    """
    if impl == "triton":
        raise NotImplementedError(
            f"{operation}: impl='triton' was asked for, but this version has no Triton kernel of it; "
            "impl='auto' takes the fastest code there is"
        )
    if impl not in ("auto", "reference", "native"):
        raise ValueError(f"{operation}: impl must be 'auto', 'reference', 'native' or 'triton', got {impl!r}")


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
