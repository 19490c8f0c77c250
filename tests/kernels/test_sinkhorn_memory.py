"""What Sinkhorn keeps for its backward: never a matrix per step."""

from collections.abc import Iterator

import pytest
import torch

from kernels import sinkhorn


def saved_elements(logits: torch.Tensor, **options) -> int:
    """Elements kept for the backward, each storage once."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = sinkhorn(logits, **options)
    assert result.requires_grad
    assert not list(hidden(result.grad_fn)), "kept where the hooks do not see it"
    return sum(kept.values())


def hidden(node: torch.autograd.graph.Node | None) -> Iterator[torch.Tensor]:
    """Tensors in plain attributes of a backward node and of those before it."""
    if node is None:
        return
    for value in vars(node).values() if hasattr(node, "__dict__") else ():
        values = value if isinstance(value, (list, tuple)) else [value]
        yield from (each for each in values if isinstance(each, torch.Tensor))
    for previous, _ in node.next_functions:
        yield from hidden(previous)


@pytest.mark.parametrize("scale", [1.0, 1e3])  # by scalings, and by logarithms
@pytest.mark.parametrize("eps", [0.0, 1e-6])
@pytest.mark.parametrize("n", [4, 8])
def test_a_matrix_and_vectors_are_kept(impl, n, eps, scale):
    count = 256
    logits = (scale * torch.randn(count, n, n)).requires_grad_()
    few, many = (saved_elements(logits, steps=steps, eps=eps, impl=impl) for steps in (5, 45))
    assert few >= count * n * n, "nothing seen to be kept: this test has gone blind"
    per_step = (many - few) / (40 * count)
    assert per_step <= 2 * n, "more than two vectors a step"
    # one matrix, or the input beside one in another layout or precision
    assert many - 45 * per_step * count <= 2 * count * n * n + 2 * count * n


def test_nothing_is_kept_without_gradients(impl):
    result = sinkhorn(torch.randn(16, 4, 4), impl=impl)
    assert not result.requires_grad
