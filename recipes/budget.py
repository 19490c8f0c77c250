"""What a model costs before anything has run."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# pixels (width, height) of the page that budgets count: letter paper at 200 dots an inch
TYPICAL_PAGE = (1700, 2200)


@dataclass(frozen=True)
class Budget:
    """Cost of a model.

    Attributes:
        parameters: trainable and frozen, a tied weight once.
        flops_per_token: of a training step (forward and backward) over the tokens in it; a multiply-add is 2, matrix
            products alone are counted, causal attention as if it were full.
    """

    parameters: int
    flops_per_token: float


class FlopCounter(TorchFunctionMode):
    """Count the FLOPs of what runs under it, with the formulas of `torch.utils.flop_counter`.

    They go to the part of a weight that takes part, or else to that of the innermost module that runs. Torch's own
    `FlopCounterMode` is of no use here: tensor subclasses cannot be made under it, and it counts by modules alone.

    Args:
        modules: module -> its part; what is not named belongs to the part of the module around it.
        weights: parameter -> its part.

    Attributes:
        flops: part -> FLOPs; None is what belongs to no part.
    """

    def __init__(
        self, modules: Mapping[nn.Module, str] | None = None, weights: Mapping[nn.Parameter, str] | None = None
    ) -> None:
        super().__init__()
        self.flops: Counter[str | None] = Counter()
        self._modules, self._weights = modules or {}, weights or {}
        self._running: list[str | None] = [None]
        self._part: str | None = None
        self._hooks: list[Any] = []

    def __enter__(self) -> "FlopCounter":
        for module, part in self._modules.items():
            self._hooks += [
                module.register_forward_pre_hook(lambda *_, part=part: self._running.append(part)),
                module.register_forward_hook(self._leave),
            ]
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        while self._hooks:
            self._hooks.pop().remove()
        super().__exit__(*exception)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        weights = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, nn.Parameter))
        self._part = next((self._weights[weight] for weight in weights if weight in self._weights), self._running[-1])
        with _Products(self):
            return func(*args, **kwargs)

    @property
    def total(self) -> int:
        """FLOPs of all parts together."""
        return sum(self.flops.values())

    def count(self, flops: int) -> None:
        """Add FLOPs of the call that runs."""
        self.flops[self._part] += flops

    def _leave(self, *_: Any) -> None:
        self._running.pop()


class _Products(TorchDispatchMode):
    """What a torch function calls, taken apart down to the operations that have a formula."""

    def __init__(self, counter: FlopCounter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:
                result = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if result is NotImplemented else result
        result = func(*args, **kwargs)
        self.counter.count(formula(*args, **kwargs, out_val=result))
        return result
