"""Two corrections of Triton's interpreter, so that it computes with bf16 as a GPU does.

It cuts fp32 off to bf16 where hardware rounds to the nearest, and `tl.dot` multiplies the bits of bf16 as integers.
"""

from typing import Any

import torch


def mend() -> None:
    """Correct the interpreter of this process, once; call it where Triton interprets."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    if getattr(InterpreterBuilder, "rounds_bf16", False):
        return
    cast, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def rounding_cast(self: Any, source: Any, dtype: Any) -> Any:
        if source.dtype.scalar != tl.float32 or dtype.scalar != tl.bfloat16:
            return cast(self, source, dtype)
        bits = torch.as_tensor(source.data).bfloat16().view(torch.int16).numpy().view("uint16")
        return TensorHandle(bits, tl.bfloat16)

    def float_dot(self: Any, a: Any, b: Any, total: Any, *options: Any) -> Any:
        a, b = (
            cast(self, operand, tl.float32) if operand.dtype.scalar == tl.bfloat16 else operand for operand in (a, b)
        )
        return dot(self, a, b, total, *options)

    InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot = rounding_cast, float_dot
    InterpreterBuilder.rounds_bf16 = True
