"""Rebuild the residual state inside the backward; no branch is run again (arXiv 2512.24880, section 4.3.2).

A trunk keeps its state once every few sublayers, and the output of every branch. What its topologies saved for the
backward is dropped, and so is what the branches saved of their input and of their pre-norm. The first of these tensors
to be asked for in the backward has the topologies of its segment run again, from the kept state and through the kept
outputs. The autograd graph is that of the plain trunk, and so are the gradients.
"""

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves, tree_map_only

from mhc.context import Context
from mhc.topology import ResidualTopology

Recompute = int | Literal["auto"] | None


def require_recompute(recompute: Recompute) -> None:
    """Raise a ValueError unless `recompute` is None, "auto" or a number of sublayers."""
    if recompute is not None and recompute != "auto" and (type(recompute) is not int or recompute < 1):
        raise ValueError(f"recompute must be None, 'auto' or a number of sublayers from 1, got {recompute!r}")


def best_interval(sublayers: int, streams: int) -> int:
    """The L_r with the least n ceil(L / L_r) + (n + 2) L_r, about sqrt(n L / (n + 2))."""
    return min(range(1, sublayers + 1), key=lambda every: streams * -(-sublayers // every) + (streams + 2) * every)


def streams_in(state: Any, x: Tensor) -> int:
    """How many times x the state holds, at least 1: n, whatever the state is made of."""
    return max(1, round(sum(leaf.numel() for leaf in _tensors(state)) / max(x.numel(), 1)))


def prepare(sublayers: Sequence[nn.Module]) -> None:
    """Have the module `norm` of each sublayer tell when it runs, and keep `torch.compile` out of the loop of segments.

    What is compiled within the loop (a sublayer, a kernel) stays compiled.
    """
    global _uncompiled
    if _uncompiled is _loop:
        # not around the definition: it imports the compiler
        _uncompiled = torch.compiler.disable(_loop)
    norms = (getattr(sublayer, "norm", None) for sublayer in sublayers)
    for norm in dict.fromkeys(norm for norm in norms if isinstance(norm, nn.Module)):
        norm.register_forward_pre_hook(_norm_begins)
        norm.register_forward_hook(_norm_ends)


def run_segments(
    sublayers: Sequence[nn.Module], topologies: Sequence[ResidualTopology], state: Any, context: Context, every: int
) -> Any:
    """The loop of a trunk, from its first state to its last, keeping a state every `every` sublayers."""
    return _uncompiled(sublayers, topologies, state, context, every)


def _loop(
    sublayers: Sequence[nn.Module], topologies: Sequence[ResidualTopology], state: Any, context: Context, every: int
) -> Any:
    segment = _Segment(topologies, 0, state)
    with segment.forgetting():
        x, carry = topologies[0].aggregate(state)
    for index, (sublayer, topology) in enumerate(zip(sublayers, topologies, strict=True)):
        if index and index % every == 0:
            segment = _Segment(topologies, index, state)
        if context.observe is not None:
            context.observe(index, topology, state, carry)
        with _branch(segment.input(x), x):
            context.index = index
            y = sublayer(x, context)
        state, x, carry = segment.step(state, y, carry)
    return state


_uncompiled = _loop


class _Forgotten:
    """Stands in the graph for a tensor; after its region has run again it has the value, until the node lets go."""

    __slots__ = ("__weakref__", "_region", "_shape", "_value")

    def __init__(self, region: "_Region", tensor: Tensor) -> None:
        self._region, self._shape = region, (tensor.shape, tensor.dtype)
        self._value: Tensor | None = None

    def remember(self, tensor: Tensor) -> None:
        if (tensor.shape, tensor.dtype) != self._shape:
            raise RuntimeError(f"{_UNEQUAL}: {self._shape} became {(tensor.shape, tensor.dtype)}")
        self._value = tensor.detach()

    def get(self) -> Tensor:
        if self._value is None:
            self._region.rebuild()
        assert self._value is not None
        return self._value


class _Region:
    """Operations whose saved tensors are forgotten one by one, and remembered together when they run again."""

    def __init__(self, given: Any) -> None:
        self._forgotten: list[weakref.ref[_Forgotten]] = []
        self._position = 0
        # the backward runs outside of the forward's autocast
        kinds = {tensor.device.type for tensor in _tensors(given)} - {"meta"}
        self._autocast = [(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)) for kind in kinds]

    def again(self) -> None:
        """Repeat the operations; under `remembering` those that ran under `forgetting`."""
        raise NotImplementedError

    def forget(self, tensor: Tensor) -> _Forgotten:
        handle = _Forgotten(self, tensor)
        self._forgotten.append(weakref.ref(handle))
        return handle

    def forgetting(self) -> saved_tensors_hooks:
        return saved_tensors_hooks(self.forget, _Forgotten.get)

    def remembering(self) -> saved_tensors_hooks:
        return saved_tensors_hooks(self._remember, _no_backward)

    def rebuild(self) -> None:
        self._position = 0
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())  # so that what is saved is what was saved
            for kind, dtype, enabled in self._autocast:
                stack.enter_context(torch.autocast(kind, dtype, enabled=enabled))
            self.again()
        if self._position != len(self._forgotten):
            raise RuntimeError(f"{_UNEQUAL}: {len(self._forgotten)} tensors were saved, now {self._position}")

    def _remember(self, tensor: Tensor) -> None:
        if self._position == len(self._forgotten):
            raise RuntimeError(f"{_UNEQUAL}: more tensors are saved than the {self._position} there were")
        handle = self._forgotten[self._position]()
        self._position += 1
        if handle is not None:
            handle.remember(tensor)


class _Segment(_Region):
    """The topologies of some sublayers in a row, with the state before the first and the output of each branch."""

    def __init__(self, topologies: Sequence[ResidualTopology], first: int, state: Any) -> None:
        super().__init__(state)
        self._topologies, self._first, self._state = topologies, first, _leaves(state)
        self._outputs: list[Tensor] = []
        self._inputs: list[weakref.ref[_Forgotten]] = []

    def input(self, x: Tensor) -> _Forgotten:
        """A handle for the input of the next branch."""
        handle = _Forgotten(self, x)
        self._inputs.append(weakref.ref(handle))
        return handle

    def step(self, state: Any, y: Tensor, carry: Any) -> tuple[Any, Any, Any]:
        """Combine, and aggregate for the following sublayer if there is one: (state, x, carry)."""
        self._outputs.append(_leaves(y))
        with self.forgetting():
            return self._join(self._first + len(self._outputs) - 1, state, y, carry)

    def again(self) -> None:
        # what the first aggregate saved belongs to the segment before, whose last step it was joined with
        with self.remembering() if self._first == 0 else saved_tensors_hooks(_discard, _no_backward):
            x, carry = self._topologies[self._first].aggregate(self._state)
        state = self._state
        for position, y in enumerate(self._outputs):
            handle = self._inputs[position]()
            if handle is not None:
                handle.remember(x)
            with self.remembering():
                state, x, carry = self._join(self._first + position, state, y, carry)

    def _join(self, index: int, state: Any, y: Tensor, carry: Any) -> tuple[Any, Any, Any]:
        if index + 1 == len(self._topologies):
            return self._topologies[index].combine(state, y, carry), None, None
        return self._topologies[index].combine_aggregate(state, y, carry, self._topologies[index + 1])


class _Norm(_Region):
    """The pre-norm of a branch, which runs again on the branch's input."""

    def __init__(self, norm: nn.Module, x: Tensor, source: "_View") -> None:
        super().__init__(x)
        self._norm, self._source, self._requires_grad = norm, source, x.requires_grad
        self._output: weakref.ref[_Forgotten] | None = None

    def output(self, z: Tensor) -> _Forgotten:
        """A handle for what the norm returned."""
        handle = _Forgotten(self, z)
        self._output = weakref.ref(handle)
        return handle

    def again(self) -> None:
        x = self._source.get().detach().requires_grad_(self._requires_grad)
        with self.remembering():
            z = self._norm(x)
        handle = self._output() if self._output is not None else None
        if handle is not None:
            handle.remember(z)


class _View:
    """A tensor that lies within one that is rebuilt."""

    __slots__ = ("_handle", "_offset", "_size", "_stride", "_within")

    def __init__(self, handle: _Forgotten, tensor: Tensor, whole: Tensor) -> None:
        self._handle, self._size, self._stride = handle, tensor.size(), tensor.stride()
        self._offset, self._within = tensor.storage_offset() - whole.storage_offset(), whole.stride()

    def get(self) -> Tensor:
        whole = self._handle.get()
        if whole.stride() != self._within:
            whole = torch.empty_strided(whole.size(), self._within, dtype=whole.dtype, device=whole.device).copy_(whole)
        return whole.as_strided(self._size, self._stride, whole.storage_offset() + self._offset)


class _Kept:
    """A tensor that the graph holds itself, with the check of autograd that nobody has written to it."""

    __slots__ = ("_tensor", "_version")

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._version = tensor, tensor._version

    def get(self) -> Tensor:
        if self._tensor._version != self._version:
            raise RuntimeError(
                f"a tensor {list(self._tensor.shape)} that a branch saved for the backward has been modified in place"
            )
        return self._tensor


class _Branch:
    """What a branch saves: its input and all of its pre-norm are forgotten, the rest is kept."""

    def __init__(self, handle: _Forgotten, x: Tensor) -> None:
        self._rebuilt = [(x, handle)]
        self._norm: _Norm | None = None
        self._in_norm = False

    def save(self, tensor: Tensor) -> _Forgotten | _View | _Kept:
        if self._norm is not None and self._in_norm:
            return self._norm.forget(tensor)
        return self._view(tensor) or _Kept(tensor)

    def norm_begins(self, norm: nn.Module, given: Any) -> None:
        view = self._view(given[0]) if len(given) == 1 and isinstance(given[0], Tensor) else None
        if self._norm is None and view is not None:
            self._norm, self._in_norm = _Norm(norm, given[0], view), True

    def norm_ends(self, output: Any) -> None:
        if self._norm is not None and self._in_norm:
            self._in_norm = False
            if isinstance(output, Tensor):
                self._rebuilt.append((output, self._norm.output(output)))

    def end(self) -> None:
        # the hooks live as long as the graph and must not hold its tensors
        self._rebuilt.clear()

    def _view(self, tensor: Tensor) -> _View | None:
        return next(
            (_View(handle, tensor, whole) for whole, handle in self._rebuilt if _is_within(tensor, whole)), None
        )


class _Running(threading.local):
    branch: _Branch | None = None


_running = _Running()
_UNEQUAL = "a topology or norm did not do in the backward what it did in the forward"


@contextmanager
def _branch(handle: _Forgotten, x: Tensor) -> Iterator[None]:
    outer, _running.branch = _running.branch, _Branch(handle, x)
    inner = _running.branch
    try:
        with saved_tensors_hooks(inner.save, _get):
            yield
    finally:
        inner.end()
        _running.branch = outer


# the hooks stay on the norms for good: a compiled branch would be compiled anew for each that comes and goes
def _norm_begins(norm: nn.Module, given: Any) -> None:
    if not torch.compiler.is_compiling() and _running.branch is not None:
        _running.branch.norm_begins(norm, given)


def _norm_ends(norm: nn.Module, given: Any, output: Any) -> None:
    if not torch.compiler.is_compiling() and _running.branch is not None:
        _running.branch.norm_ends(output)


def _get(packed: _Forgotten | _View | _Kept) -> Tensor:
    return packed.get()


def _discard(tensor: Tensor) -> None:
    return None


def _no_backward(packed: Any) -> Tensor:
    raise RuntimeError("operations that run again to rebuild tensors have no backward of their own")


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _leaves(tree: Any) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.detach().requires_grad_(tensor.requires_grad), tree)


def _is_within(tensor: Tensor, whole: Tensor) -> bool:
    if tensor.dtype != whole.dtype or tensor.untyped_storage()._cdata != whole.untyped_storage()._cdata:
        return False
    start = tensor.storage_offset() - whole.storage_offset()
    # a whole with gaps could share its storage with another tensor
    return start >= 0 and start + _extent(tensor) <= whole.numel() == _extent(whole)


def _extent(tensor: Tensor) -> int:
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.size(), tensor.stride(), strict=True))
