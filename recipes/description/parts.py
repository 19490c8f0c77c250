"""The parts of a network: which modules and weights are whose, and how many weights a token meets."""

from fractions import Fraction
from functools import singledispatch

from torch import nn

from encoders.ocr2 import OCR2
from encoders.query_bank import QueryBank
from mhc import Attention, CausalLanguageModel, CrossAttention, FeedForward, SwiGLU, Trunk
from mhc.mixture_of_experts import MixtureOfExperts

HEAD, TOPOLOGIES = "head", "topologies"
# between a part's group and its name
BETWEEN = ": "


def parts(network: nn.Module) -> dict[str, str]:
    """Path of a module -> the part that begins there, in the order of the network; topologies are parts of their own.

    What lies in no named module belongs to the part of the module around it.
    """
    there = {path for path, _ in network.named_modules()}
    # a part that a network does without, such as a head
    named = {path: part for path, part in named_parts(network).items() if path in there}
    for path, module in network.named_modules():
        if isinstance(module, Trunk):
            owner = owner_of(path, named)
            sublayers = _join(path, "sublayers")
            inside = {name: part for name, part in named.items() if name.startswith(f"{sublayers}.")}
            named |= {path: f"{owner}{BETWEEN}{TOPOLOGIES}" if owner else TOPOLOGIES, sublayers: owner} | inside
            for number in range(len(module.sublayers)):
                # a list of modules is not called, each of them is
                named.setdefault(_join(sublayers, str(number)), owner)
    return named


def owner_of(path: str, named: dict[str, str]) -> str:
    """The part that a module or weight belongs to, "" where no module around it has one."""
    while path and path not in named:
        path = path.rpartition(".")[0]
    return named.get(path, "")


@singledispatch
def named_parts(module: nn.Module) -> dict[str, str]:
    """Path of a module within this one -> its part; by default every child is one."""
    return {name: name for name, _ in module.named_children()}


@named_parts.register
def _(module: OCR2) -> dict[str, str]:
    named = {
        "vision.tokenizer": "tokenizer",
        "vision.encoder": "encoder",
        "vision.queries": "query bank",
        "vision.projector": "projector",
        "vision": "separator",
        "decoder": "decoder",
    }
    decoder = named_parts(module.decoder)
    return named | {f"decoder.{path}": f"decoder{BETWEEN}{part}" for path, part in decoder.items()}


@named_parts.register
def _(module: CausalLanguageModel) -> dict[str, str]:
    named = {"embedding": "embedding" if module.head is not None else "embedding and head"}
    for number, sublayer in enumerate(module.trunk.sublayers):
        for path, part in sublayer_parts(sublayer).items():
            named[_join(f"trunk.sublayers.{number}", path)] = part
    return named | {"norm": "norm", "head": HEAD}


@singledispatch
def sublayer_parts(sublayer: nn.Module) -> dict[str, str]:
    """Path of a module within a sublayer -> its part; "" is the sublayer."""
    return {"": type(sublayer).__name__}


@sublayer_parts.register
def _(sublayer: Attention) -> dict[str, str]:
    return {"": "attention"}


@sublayer_parts.register
def _(sublayer: CrossAttention) -> dict[str, str]:
    return {"": "cross-attention"}


@sublayer_parts.register(FeedForward)
@sublayer_parts.register(SwiGLU)
def _(sublayer: nn.Module) -> dict[str, str]:
    return {"": "dense feed-forward"}


@sublayer_parts.register
def _(sublayer: MixtureOfExperts) -> dict[str, str]:
    shared = dict.fromkeys(("shared_gate", "shared_up", "shared_down"), "shared experts")
    return {"": "routed experts", "router": "router"} | shared


@singledispatch
def shares(module: nn.Module) -> dict[str, Fraction]:
    """Name of a weight within the module -> the share of it that one token meets, where that is not all of it."""
    return {}


@shares.register
def _(module: nn.Embedding) -> dict[str, Fraction]:
    return {"weight": Fraction(1, module.num_embeddings)}


@shares.register
def _(module: CausalLanguageModel) -> dict[str, Fraction]:
    # as a head, an embedding is met whole
    return {"embedding.weight": Fraction(1)} if module.head is None else {}


@shares.register
def _(module: MixtureOfExperts) -> dict[str, Fraction]:
    return dict.fromkeys(("gate_up", "down"), Fraction(module.chosen, module.experts))


@shares.register
def _(module: QueryBank) -> dict[str, Fraction]:
    # one query of one bank
    named = dict(module.named_parameters())
    rows = sum(len(bank) for bank in named.values())
    return dict.fromkeys(named, Fraction(1, max(rows, 1)))


def shares_of(network: nn.Module) -> dict[str, Fraction]:
    """`shares` of all modules under the names of the whole network; what stands further out has the last word."""
    found: dict[str, Fraction] = {}
    for path, module in reversed(list(network.named_modules())):
        found |= {_join(path, name): share for name, share in shares(module).items()}
    return found


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
