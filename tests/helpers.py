"""How the tests compare: relative errors, and gradients under a random upstream."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

# a few roundings of a sum of some hundred terms; fp64 keeps 1e-16 and fp32 6e-8 of a value
FP64 = 1e-12
FP32 = 1e-5


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """||actual - expected|| / ||expected|| in fp64; a tensor of zeros has error 1, one with a NaN or inf has inf."""
    assert actual.shape == expected.shape, f"shape {list(actual.shape)}, expected {list(expected.shape)}"
    actual, expected = actual.detach().double(), expected.detach().double()
    if expected.numel() == 0:
        return 0.0
    difference, size = (actual - expected).norm(), expected.norm()
    error = float(difference / size) if size > 0 else float(difference)
    return error if error == error else float("inf")


def random_like(tensor: Tensor, seed: int = 7) -> Tensor:
    """An upstream gradient: normal, of its own seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device, tensor.dtype)


def gradients(outputs: Tensor | Sequence[Tensor], inputs: Sequence[Tensor], seed: int = 7) -> list[Tensor]:
    """Gradients of all inputs under a random upstream for every output; an input that is not reached is an error."""
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    upstreams = [random_like(output, seed + k) for k, output in enumerate(outputs)]
    return list(torch.autograd.grad(outputs, list(inputs), upstreams))


def leaves(*tensors: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Detached copies that ask for a gradient."""
    return [tensor.detach().to(dtype or tensor.dtype).clone().requires_grad_() for tensor in tensors]


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Compare tensors by name with `relative_error`; name every one that is off."""
    assert actual.keys() == expected.keys()
    errors = {name: relative_error(actual[name], expected[name]) for name in expected}
    off = {name: error for name, error in errors.items() if not error <= tolerance}
    assert not off, f"relative error over {tolerance}: {off}"


def outputs_and_gradients(
    function: Callable[..., Tensor | Sequence[Tensor]], arguments: dict[str, Tensor], dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Run `function` on fresh leaves; its outputs as out0, out1, ... and the gradients by argument, random upstream."""
    inputs = leaves(*arguments.values(), dtype=dtype)
    outputs = function(*inputs)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    results = {f"out{k}": output.detach() for k, output in enumerate(outputs)}
    return results | {f"d_{name}": g for name, g in zip(arguments, gradients(outputs, inputs), strict=True)}


@torch.no_grad()
def randomise(module: nn.Module, scale: float = 0.5, seed: int = 3) -> nn.Module:
    """Add normal noise to every parameter, so that nothing is tested at a start where half of it vanishes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.add_(scale * noise.to(parameter.dtype))
    return module


def with_weights(module: nn.Module, **weights: Tensor) -> nn.Module:
    """Put tensors in the place of a module's own parameters, so that gradients reach whatever they came from."""
    assert weights.keys() == dict(module.named_parameters(recurse=False)).keys()
    for name, weight in weights.items():
        delattr(module, name)
        setattr(module, name, weight)
    return module
