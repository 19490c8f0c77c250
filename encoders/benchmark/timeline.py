"""Where a training step's time goes: the parts of a model in forward and backward."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

OTHER = "other"


class Timeline:
    """Marks on the time of one step, each of which says what runs from then on.

    A part begins and ends with its modules' forwards; in the backward it begins when the gradient of its output is
    there, and ends when those of its inputs are, or with the next mark where no input has one. What runs between
    parts is "other". On a GPU marks are events on the stream, which takes the time of the GPU and not the host's.

    Args:
        parts: name -> modules, none of which calls another.
        stamp: takes the time.
        between: milliseconds between two stamps.
    """

    def __init__(
        self,
        parts: Mapping[str, Sequence[nn.Module]],
        stamp: Callable[[], Any] = time.perf_counter,
        between: Callable[[Any, Any], float] = lambda start, end: 1e3 * (end - start),
    ) -> None:
        self.parts, self.stamp, self.between = parts, stamp, between
        self._marks: list[tuple[str, Any]] = []
        # the call of a module that the last mark began, and the calls that run
        self._owner: object = None
        self._calls: list[object] = []
        self._handles: list[RemovableHandle] = []

    @classmethod
    def on(cls, device: str, parts: Mapping[str, Sequence[nn.Module]]) -> Self:
        """By the clock of "cuda" or "cpu"."""
        return cls(parts, _event, _between_events) if device == "cuda" else cls(parts)

    def __enter__(self) -> Self:
        self.mark(OTHER)
        for name, modules in self.parts.items():
            for module in modules:
                self._handles += [
                    module.register_forward_pre_hook(self._before(name), with_kwargs=True),
                    module.register_forward_hook(self._after(name)),
                ]
        return self

    def __exit__(self, *_: object) -> None:
        self.mark(OTHER)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def mark(self, name: str, owner: object = None) -> None:
        """From now on it is this that runs."""
        self._marks.append((name, self.stamp()))
        self._owner = owner

    def milliseconds(self) -> dict[str, float]:
        """Of every part that ran, and of the rest; all of them together are the step."""
        found: Counter[str] = Counter()
        for (name, start), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            found[name] += self.between(start, end)  # type: ignore[assignment]
        return dict(found)

    def _before(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, keywords: Any) -> None:
            call = object()
            self._calls.append(call)
            inputs = [tensor for tensor in _tensors((arguments, keywords)) if tensor.requires_grad]
            waiting = len(inputs)

            def arrived(gradient: Tensor) -> None:
                nonlocal waiting
                waiting -= 1
                # an input may be another module's output, which has begun then
                if not waiting and self._owner is call:
                    self.mark(OTHER)

            for tensor in inputs:
                tensor.register_hook(arrived)
            self.mark(name, call)

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            call = self._calls.pop()
            for tensor in _tensors(output):
                if tensor.requires_grad:
                    tensor.register_hook(lambda gradient: self.mark(name, call))
            self.mark(OTHER)

        return hook


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, Sequence)) and not isinstance(value, str):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between_events(start: torch.cuda.Event, end: torch.cuda.Event) -> float:
    end.synchronize()
    return start.elapsed_time(end)
