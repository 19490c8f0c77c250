"""One way to make a PyTorch operation of Triton kernels: visible to autograd, `torch.compile` and the FLOP counter.

A module `kernels/<operation>/triton.py` imports Triton at its top and is itself imported on first use, so that
`import kernels` needs no Triton:

    import triton
    from kernels.registration import differentiable, operation, wrap_triton

    @triton.jit
    def _double_kernel(x, out, count, BLOCK: tl.constexpr): ...

    @operation("double_backward", flops=lambda gradient, *_, **__: math.prod(gradient))
    def _backward(gradient: Tensor) -> Tensor:
        result = torch.empty_like(gradient)
        wrap_triton(_double_kernel)[(blocks,)](gradient, result, gradient.numel(), BLOCK=1024, num_warps=4)
        return result

    @operation("double", flops=lambda x, *_, **__: math.prod(x))
    def _forward(x: Tensor) -> Tensor: ...

    differentiable(_forward, _backward_of_autograd, _setup_context)

The body allocates, launches and returns; it is also what runs on fake tensors, so it looks at no value, returns none of
its arguments nor a view of one, and is annotated (Tensor, int, float, bool, str; one Tensor or a tuple of them).
Kernels and the device functions they call are imported by name: the source that Inductor writes knows no modules.
"""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels import interpreter

Body = Callable[..., Any]


# read once: the functions below are also traced by torch.compile
_INSTALLED = importlib.util.find_spec("triton") is not None
_INTERPRETED = _INSTALLED and os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


def installed() -> bool:
    """Whether Triton can be imported."""
    return _INSTALLED


def interpreted() -> bool:
    """Whether Triton interprets its kernels, on CPU: TRITON_INTERPRET=1 was set before `kernels` was imported."""
    return _INTERPRETED


def available(tensor: Tensor) -> bool:
    """Whether Triton kernels can run on this tensor: on a GPU where Triton is, and on CPU where it interprets."""
    return (tensor.is_cuda and installed()) or (tensor.device.type == "cpu" and interpreted())


def operation(name: str, *, flops: Callable[..., int]) -> Callable[[Body], Any]:
    """Register the decorated body, which launches kernels through `wrap_triton`, as `torch.ops.kernels.<name>`.

    A `triton_op`, which the compiler sees into; a `custom_op` where Triton interprets, for there is nothing to see.

    Args:
        name: of the operation; its backward is called `<name>_backward`.
        flops: floating point operations from the body's arguments, with shapes in the place of tensors, and
            `out_shape`.
    """
    from torch.utils.flop_counter import register_flop_formula  # which imports Triton

    def register(body: Body) -> Any:
        if interpreted():
            interpreter.mend()
            registered: Any = torch.library.custom_op(f"kernels::{name}", body, mutates_args=())
            registered.register_fake(body)
        else:
            registered = torch.library.triton_op(f"kernels::{name}", body, mutates_args=())
        register_flop_formula(getattr(torch.ops.kernels, name))(flops)
        return registered

    return register


def differentiable(forward: Any, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
    """Give a registered operation its gradient.

    Args:
        forward: what `operation` returned.
        backward: (ctx, *gradients of the outputs) -> a gradient or None for each argument; it calls the registered
            backward, so that a compiler sees that one, too. Gradients come as they are: dense or of any strides.
        setup_context: (ctx, inputs, output) -> None, keeps what the backward needs.
    """
    forward.register_autograd(backward, setup_context=setup_context)


def wrap_triton(kernel: Any) -> Any:
    """The kernel to launch as `wrap_triton(kernel)[grid](...)` in a body; keeps the name that torch looks for."""
    return _Interpreted(kernel) if interpreted() else torch.library.wrap_triton(kernel)


class _Interpreted:
    """An interpreted kernel; launched on tensors without memory (fake, meta), it does nothing."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            tensors = [value for value in (*arguments, *options.values()) if isinstance(value, Tensor)]
            if all(type(tensor) in (Tensor, torch.nn.Parameter) and not tensor.is_meta for tensor in tensors):
                self.kernel[grid](*arguments, **options)

        return launch
