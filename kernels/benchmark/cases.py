"""What is timed: every operation at a size, in each of its forms, and the same by its peers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

import kernels
from kernels.benchmark.formulas import Size
from kernels.dispatch import Implementation

Function = Callable[..., Any]

# the convention of Liger, so that all compute the same: columns last, eps in every normalisation
CONVENTION: dict[str, Any] = {"last": "columns", "eps": 1e-6}
PREFIX, SEQUENCE, HEADS = 256, 512, 14
TOKENS, WIDTHS = (4096, 16384, 65536), (1280, 2560, 4096, 7168)
# peers are left out when time is up: first what a goal compares with them
OPERATIONS = ("combine_aggregate", "combine", "aggregate", "hyper_coefficients", "sinkhorn", "prefix_attention")
PEERS = ("eager", "compiled", "liger")
_COMPILED: dict[str, Function] = {}


@dataclass
class Case:
    """An operation at a size.

    Attributes:
        arguments: leaves that ask for gradients.
        forms: name -> (function of the arguments, name of its formula of bytes); "" is the one users get.
        peers: name -> what makes a function of the arguments, or raises where there is none.
        keys: of prefix_attention, those that a query sees on average.
    """

    operation: str
    size: Size
    arguments: list[Tensor]
    forms: dict[str, tuple[Function, str]]
    peers: dict[str, Callable[[], Function]] = field(default_factory=dict)
    keys: float = 0.0


def sizes(operation: str, device: str, quick: bool) -> Iterator[Size]:
    """The sizes of an operation: tokens x widths at n = 4, and n = 2 and 8 at one of them."""
    tiny = device == "cpu"
    tokens, widths = ((32,), (24,)) if tiny else ((4096,), (1280, 2560)) if quick else (TOKENS, WIDTHS)
    if operation == "prefix_attention":
        yield from (Size(count, 1, 2 * HEADS if tiny else 64 * HEADS) for count in tokens)
        return
    if operation == "sinkhorn":
        widths = widths[:1]  # it has none
    yield from (Size(count, 4, width) for count in tokens for width in widths)
    at = tokens[len(tokens) // 2], widths[min(1, len(widths) - 1)]
    yield from (Size(at[0], n, at[1]) for n in ((2,) if tiny else (2, 8)))


def build(operation: str, size: Size, device: str, impl: Implementation) -> Case:
    """Draw the arguments of a case on a device."""
    dtype = {2: torch.bfloat16, 4: torch.float32}[size.element]
    tokens, n, width = size.tokens, size.n, size.width
    columns = n * (n + 2)

    def draw(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, dtype=dtype, device=device)).requires_grad_()

    if operation == "prefix_attention":
        length = min(SEQUENCE, tokens)
        prefix = min(PREFIX, length // 2)
        shape = (tokens // length, HEADS, length, width // HEADS)
        function = partial(kernels.prefix_attention, prefix=prefix)
        queries = length - prefix
        keys = (prefix * prefix + queries * prefix + queries * (queries + 1) / 2) / length
        arguments = [draw(*shape, dtype=dtype) for _ in range(3)]
        codes = ("split", "flex") if device == "cuda" else ("split",)
        forms: dict[str, tuple[Function, str]] = {"": (function, operation)}
        forms |= {code: (partial(function, impl=code), operation) for code in codes}
        return Case(operation, size, arguments, forms, _plain_peers(function, operation), keys)

    x, y = (tokens, n, width), (tokens, width)
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {
        "sinkhorn": ((tokens, n, n),),
        "aggregate": (x, (tokens, n)),
        "combine": (x, y, (tokens, n), (tokens, n, n)),
        "hyper_coefficients": (x,),
        "combine_aggregate": (x, y, (tokens, n), (tokens, n, n)),
    }
    arguments = [draw(*shape, dtype=dtype if shape in (x, y) else torch.float32) for shape in shapes[operation]]
    projected = operation in ("hyper_coefficients", "combine_aggregate")
    if projected:
        arguments += [draw(n * width, columns, scale=(n * width) ** -0.5), draw(3), draw(columns)]
    options = dict(CONVENTION, steps=size.steps) if projected or operation == "sinkhorn" else {}
    if projected:
        options["norm_eps"] = 1e-6
    function = partial(getattr(kernels, operation), **options)
    forms = {"": (partial(function, impl=impl), operation)}
    if options and operation != "combine_aggregate":
        forms["eps = 0"] = partial(function, impl=impl, eps=0.0), operation
    if operation == "combine_aggregate":
        forms |= _boundary(options, impl)
    peers = _plain_peers(function, operation)
    if n != 4:
        del peers["compiled"]  # another graph, whose compilation takes longer than all that is measured
    if operation != "sinkhorn" and device == "cuda":  # interpreted, it takes minutes
        peers["liger"] = partial(_liger, operation, size)
    return Case(operation, size, arguments, forms, peers)


def outputs_of(function: Function, arguments: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that a function returns, as a list."""
    result = function(*arguments)
    return [result] if isinstance(result, Tensor) else list(result)


def _boundary(options: dict[str, Any], impl: Implementation) -> dict[str, tuple[Function, str]]:
    def apart(x: Tensor, y: Tensor, post: Tensor, res: Tensor, *projection: Tensor) -> tuple[Tensor, ...]:
        x = kernels.combine(x, y, post, res, impl=impl)
        coefficients = kernels.hyper_coefficients(x, *projection, impl=impl, **options)
        return x, kernels.aggregate(x, coefficients.pre, impl=impl), *coefficients

    forms: dict[str, tuple[Function, str]] = {"three operations": (apart, "three_operations")}
    if impl == "triton":
        from kernels.combine_aggregate.triton import combine_aggregate

        fused = partial(combine_aggregate, precision="tf32", **options)
        forms["joined"] = partial(fused, joined=True), "combine_aggregate"
        forms["two launches"] = partial(fused, joined=False), "two_launches"
    return forms


def _plain_peers(function: Function, operation: str) -> dict[str, Callable[[], Function]]:
    plain = partial(function, impl="reference")
    return {"eager": lambda: plain, "compiled": lambda: _compiled(operation, plain)}


def _compiled(operation: str, plain: Function) -> Function:
    # one compilation for all sizes: a graph of each would take longer than all that is measured
    if operation not in _COMPILED:

        def call(*arguments: Tensor) -> Any:
            return plain(*arguments)

        _COMPILED[operation] = torch.compile(call, dynamic=True)
    return _COMPILED[operation]


def _liger(operation: str, size: Size) -> Function:
    try:
        from liger_kernel.ops.mhc import LigerMHCCoeffsFunction, LigerMHCPostResFunction, LigerMHCPreFunction
    except ImportError as error:
        raise RuntimeError("liger-kernel is not installed, or has no mHC") from error

    def coefficients(x: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor) -> Any:
        # allow_fp32, steps, eps of the norm, of pre and of Sinkhorn, factor of post
        options = True, size.steps, 1e-6, 1e-6, 1e-6, 2.0
        return LigerMHCCoeffsFunction.apply(x, phi, bias, *alpha.unbind(), *options)

    def chain(x: Tensor, y: Tensor, post: Tensor, res: Tensor, *projection: Tensor) -> tuple[Tensor, ...]:
        x = LigerMHCPostResFunction.apply(x, y, post, res)
        pre, post, res = coefficients(x, *projection)
        return x, LigerMHCPreFunction.apply(x, pre), pre, post, res

    return {
        "hyper_coefficients": coefficients,
        "aggregate": LigerMHCPreFunction.apply,
        "combine": LigerMHCPostResFunction.apply,
        "combine_aggregate": chain,
    }[operation]
