"""Parameters, active parameters and FLOPs of a network without storage, by part."""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import singledispatch

import torch
from torch import Tensor, nn

from encoders.ocr2 import OCR2
from encoders.views import ImageBatch, Views
from mhc import CausalLanguageModel
from recipes.budget import FlopCounter
from recipes.data.page_batch import empty_images
from recipes.description.parts import owner_of, parts, shares_of
from recipes.errors import UserError

OTHERS = "other"


@dataclass(frozen=True)
class Input:
    """What a forward reads.

    Attributes:
        text: tokens of text; beside those of the page, where there is one.
        page: (width, height) in pixels.
        views: how the page is cut.
    """

    text: int
    page: tuple[int, int]
    views: Views


@dataclass
class Cost:
    """What one part costs.

    Attributes:
        parameters: a tied weight counts once.
        active: parameters that one token meets.
        flops: of the forward.
    """

    parameters: int = 0
    active: int = 0
    flops: int = 0


def costs(network: nn.Module, given: Input) -> dict[str, Cost]:
    """Part -> its cost, for a network on the meta device; parts that have nothing are left out."""
    named = parts(network)
    found = {part: Cost() for part in dict.fromkeys([*named.values(), OTHERS])}
    shares, active, weights = shares_of(network), Counter(), {}
    for name, parameter in network.named_parameters():
        part = owner_of(name, named) or OTHERS
        weights[parameter] = part
        found[part].parameters += parameter.numel()
        active[part] += parameter.numel() * shares.get(name, Fraction(1))
    for part, share in active.items():
        found[part].active = int(share)
    modules = {network.get_submodule(path): part for path, part in named.items()}
    with torch.device("meta"), torch.no_grad(), FlopCounter(modules, weights) as counter:
        network(*example(network, given))
    for part, flops in counter.flops.items():
        found[part or OTHERS].flops += flops
    return {part: cost for part, cost in found.items() if cost.parameters or cost.flops}


@singledispatch
def example(network: nn.Module, given: Input) -> tuple:
    """Arguments of a forward, on the default device.

    Raises:
        UserError: nobody knows what this network reads.
    """
    raise UserError(
        f"model: describe knows what OCR2 and CausalLanguageModel read, but not {type(network).__name__}; register it "
        "with recipes.description.costs.example"
    )


@example.register
def _(network: CausalLanguageModel, given: Input) -> tuple[Tensor]:
    return (torch.zeros(1, given.text, dtype=torch.int64),)


@example.register
def _(network: OCR2, given: Input) -> tuple[Tensor, ImageBatch]:
    images = empty_images(given.views, *given.page)
    return torch.zeros(1, sum(network.vision.lengths(images)) + given.text, dtype=torch.int64), images
