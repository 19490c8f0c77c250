"""Bytes that an operation has to move and floating point operations it has to do, forward and backward.

Counted are arguments, results and gradients, each read or written once; what a forward keeps for its backward is not.
Streams and what sublayers read and write are in the dtype of x, coefficients, logits and parameters in fp32.
"""

from collections.abc import Callable
from typing import NamedTuple

FP32 = 4


class Size(NamedTuple):
    """One problem: tokens, streams n, width C and bytes of an element of x; of the tokens, steps of Sinkhorn."""

    tokens: int
    n: int
    width: int
    element: int = 2
    steps: int = 20

    def moved(self, wide: int, narrow: int, shared: int = 0) -> int:
        """Bytes of `wide` values of C and `narrow` fp32 ones a token, and of `shared` fp32 values in all."""
        return self.tokens * (wide * self.width * self.element + narrow * FP32) + shared * FP32


def sinkhorn(size: Size, backward: bool) -> int:
    """Read logits, write matrices; backward read logits and gradient, write the gradient: 2 n^2 + 3 n^2 values."""
    return size.moved(0, (3 if backward else 2) * size.n**2)


def hyper_coefficients(size: Size, backward: bool) -> int:
    """Read x, write the coefficients; backward read x, write its gradient: n C + 2 n C, and phi or phi and d phi."""
    times = 2 if backward else 1
    return size.moved(times * size.n, _columns(size), times * _parameters(size))


def aggregate(size: Size, backward: bool) -> int:
    """Read x, write z: (n + 1) C; backward read x and d z, write d x: (2 n + 1) C."""
    n = size.n
    return size.moved(2 * n + 1, 2 * n) if backward else size.moved(n + 1, n)


def combine(size: Size, backward: bool) -> int:
    """Read x and y, write x': (2 n + 1) C; backward read d x', x and y, write d x and d y: (3 n + 2) C."""
    n = size.n
    return size.moved(3 * n + 2, 2 * (n + n**2)) if backward else size.moved(2 * n + 1, n + n**2)


def combine_aggregate(size: Size, backward: bool) -> int:
    """Read x and y, write x' and z: (2 n + 2) C; backward read d x', d z, x, y, write d x, d y: (3 n + 3) C."""
    n = size.n
    if backward:
        return size.moved(3 * n + 3, 2 * (n + n**2) + _columns(size), 2 * _parameters(size))
    return size.moved(2 * n + 2, n + n**2 + _columns(size), _parameters(size))


def two_launches(size: Size, backward: bool) -> int:
    """`combine`, then coefficients with `aggregate`: (3 n + 2) C; backward (3 n + 2) C + (3 n + 1) C."""
    n = size.n
    if backward:
        return size.moved(6 * n + 3, 2 * (n + n**2) + _columns(size), 2 * _parameters(size))
    return size.moved(3 * n + 2, n + n**2 + _columns(size), _parameters(size))


def three_operations(size: Size, backward: bool) -> int:
    """The boundary by `combine`, `hyper_coefficients` and `aggregate`, each alone, without autograd's additions."""
    return sum(operation(size, backward) for operation in (combine, hyper_coefficients, aggregate))


def prefix_attention(size: Size, backward: bool) -> int:
    """Read query, key, value, write the result: 4 C; backward read those and its gradient, write three: 8 C."""
    return size.moved(8 if backward else 4, 0)


BYTES: dict[str, Callable[[Size, bool], int]] = {
    function.__name__: function
    for function in (
        sinkhorn, hyper_coefficients, aggregate, combine, combine_aggregate, two_launches, three_operations,
        prefix_attention,
    )
}  # fmt: skip


def flops(operation: str, size: Size, backward: bool, keys: float = 0.0) -> int:
    """Floating point operations, twice as many in a backward; `keys` are those a query sees on average.

    Sinkhorn: two scalings of n^2 values a step, a product and a sum each; the others: products with values of x.
    """
    n, streams = size.n, size.n * size.width
    once = {
        "sinkhorn": 4 * size.steps * n * n,
        "hyper_coefficients": 2 * streams * n * (n + 2),
        "aggregate": 2 * streams,
        "combine": 2 * streams * (n + 1),
        "combine_aggregate": 2 * streams * ((n + 1) + n * (n + 2) + 1),
        "prefix_attention": round(4 * keys * size.width),
    }[operation]
    return size.tokens * once * (2 if backward else 1)


def _columns(size: Size) -> int:
    return size.n * (size.n + 2)


def _parameters(size: Size) -> int:
    # phi, alpha, bias
    return size.n * size.width * _columns(size) + 3 + _columns(size)
