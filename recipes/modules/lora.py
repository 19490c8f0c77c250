"""Low-rank adapters (LoRA, arXiv 2106.09685) on the linear layers of a network, by peft."""

import importlib.util
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mhc.mixture_of_experts import MixtureOfExperts
from recipes.modules.parts import within

ADAPTER = "default"


@dataclass(frozen=True)
class LoRA:
    """W x becomes W x + (alpha / rank) B A x, where only A and B are trained and B starts at zero.

    It reaches the linear layers of attention (queries, keys and values are one), feed-forward, shared experts,
    projector and head. Routed experts are stacked parameters, a router is read as a matrix, and embeddings, norms,
    convolutions, queries and topologies are no linear layers: these are trained in full or frozen.

    Attributes:
        parts: patterns of names; the linear layers in these parts are adapted, and their own weights frozen.
        rank: of B A.
        alpha: scale, times rank.
        dropout: share of an adapter's inputs that training leaves out; a resumed run draws others.
    """

    parts: tuple[str, ...]
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers and the package."""
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                "lora.rank must be at least 1, lora.alpha above 0 and lora.dropout from 0 to below 1, got "
                f"{self.rank}, {self.alpha} and {self.dropout}"
            )
        if importlib.util.find_spec("peft") is None:
            raise ValueError("lora needs the package peft: install it with python -m pip install peft")


def linear_layers(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the linear layers in the parts that an adapter reaches.

    Raises:
        ValueError: a pattern without one.
    """
    routers = {id(module.router) for module in network.modules() if isinstance(module, MixtureOfExperts)}
    names = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in routers and ".lora_" not in name
    ]
    for pattern in patterns:
        if not any(within(name, [pattern]) for name in names):
            raise ValueError(
                f"lora.parts names '{pattern}', where there is no linear layer: routed experts and their routers, "
                "embeddings and convolutions are not adapted, leave them out of frozen to train them in full"
            )
    return [name for name in names if within(name, patterns)]


def adapt(network: nn.Module, lora: LoRA) -> None:
    """Put an adapter on each linear layer of the parts, once; all other parameters train as they did."""
    if any(is_adapted(module) for module in network.modules()):
        return
    from peft import LoraConfig, inject_adapter_in_model

    trained = {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
    names = linear_layers(network, lora.parts)
    frozen = {id(parameter) for name in names for parameter in network.get_submodule(name).parameters()}
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules="|".join(re.escape(name) for name in names),
    )
    inject_adapter_in_model(config, network, ADAPTER)
    for parameter in network.parameters():
        if id(parameter) in trained - frozen:
            parameter.requires_grad_(True)


def is_adapted(module: nn.Module) -> bool:
    """Whether a module is a linear layer with an adapter."""
    return hasattr(module, "base_layer") and hasattr(module, "lora_A")


@torch.no_grad()
def merged_weights(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The state of the network without adapters, what they add put into the weights: names and tensors on the CPU.

    Sharded tensors are gathered one by one: every process has to go through all of them, and one may keep them.
    """
    adapted = {f"{name}.base_layer.weight": layer for name, layer in network.named_modules() if is_adapted(layer)}
    for name, tensor in network.state_dict().items():
        if ".lora_" in name:
            continue
        weight = _whole(tensor)
        if name in adapted:
            layer = adapted[name]
            down, up = (_whole(part[ADAPTER].weight).float() for part in (layer.lora_A, layer.lora_B))
            weight = (weight.float() + layer.scaling[ADAPTER] * (up @ down)).to(weight.dtype)
        yield name.replace(".base_layer.", "."), weight


def _whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().cpu()
