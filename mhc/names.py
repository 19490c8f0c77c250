"""Where a checkpoint's tensors live in our modules: released names, and slices of our parameters.

Released checkpoints split what we keep whole (queries, keys and values; the experts of a layer), so that every one of
their tensors is a slice of one of ours, and loading and saving copy it bit for bit.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mhc.attention import Attention
from mhc.feed_forward import SwiGLU
from mhc.language_model import CausalLanguageModel
from mhc.mixture_of_experts import MixtureOfExperts
from mhc.trunk import Trunk


@dataclass(frozen=True)
class Slot:
    """The place of a checkpoint's tensor: `state_dict()[name][index]`."""

    name: str
    index: tuple[Any, ...] = ()

    def of(self, state: Mapping[str, Tensor]) -> Tensor:
        """The slice itself, which shares the state's memory."""
        return state[self.name][self.index]


Names = dict[str, Slot]


def released_names(module: nn.Module) -> Names:
    """The name in a checkpoint and the slot of every tensor of a module's state dict.

    What has no released name, such as a topology or another encoder, keeps its name in the state dict.

    Raises:
        ValueError: slots that leave out a part of a tensor, or name it twice.
    """
    names, state = dict(known_names(module)), module.state_dict()
    covered = dict.fromkeys(state, 0)
    for slot in names.values():
        covered[slot.name] += slot.of(state).numel()
    for name, tensor in state.items():
        if covered[name] == 0 and name not in names:
            names[name] = Slot(name)
        elif covered[name] != tensor.numel():
            raise ValueError(
                f"the names of {type(module).__name__} cover {covered[name]} of the {tensor.numel()} values of {name}: "
                "each value needs one name"
            )
    return names


@functools.singledispatch
def known_names(module: nn.Module) -> Names:
    """The released names that a module has, as far as it has any; a class registers its own."""
    return {}


def placed(names: Names, *, at: str, under: str) -> Names:
    """The names of a part: its state dict begins with `at`, its names in the checkpoint with `under`."""
    return {under + name: Slot(at + slot.name, slot.index) for name, slot in names.items()}


def whole(part: nn.Module, *, at: str, under: str) -> Names:
    """The names of a part whose tensors are called in the checkpoint what they are called in it."""
    return placed({name: Slot(name) for name in part.state_dict()}, at=at, under=under)


def trunk_names(trunk: Trunk, *, at: str = "trunk.", under: str = "layers.") -> Names:
    """The names of a trunk whose layers are an attention and a feed-forward sublayer each."""
    names: Names = {}
    for index, sublayer in enumerate(trunk.sublayers):
        names |= placed(known_names(sublayer), at=f"{at}sublayers.{index}.", under=f"{under}{index // 2}.")
    return names


@known_names.register
def _attention(module: Attention) -> Names:
    names = whole(module.norm, at="norm.", under="input_layernorm.")
    queries, others = module.heads * module.head_width, module.key_value_heads * module.head_width
    rows = {
        "q": slice(0, queries),
        "k": slice(queries, queries + others),
        "v": slice(queries + others, queries + 2 * others),
    }
    for kind in module.query_key_value.state_dict():
        for letter, part in rows.items():
            names[f"self_attn.{letter}_proj.{kind}"] = Slot(f"query_key_value.{kind}", (part,))
    names |= whole(module.output, at="output.", under="self_attn.o_proj.")
    names |= whole(module.query_norm, at="query_norm.", under="self_attn.q_norm.")
    return names | whole(module.key_norm, at="key_norm.", under="self_attn.k_norm.")


@known_names.register
def _swiglu(module: SwiGLU) -> Names:
    names = whole(module.norm, at="norm.", under="post_attention_layernorm.")
    for ours in ("gate", "up", "down"):
        names |= whole(getattr(module, ours), at=f"{ours}.", under=f"mlp.{ours}_proj.")
    return names


@known_names.register
def _mixture_of_experts(module: MixtureOfExperts) -> Names:
    names = whole(module.norm, at="norm.", under="post_attention_layernorm.")
    names |= whole(module.router, at="router.", under="mlp.gate.")
    experts, twice, _ = module.gate_up.shape
    for expert in range(experts):
        for theirs, part in (("gate", slice(0, twice // 2)), ("up", slice(twice // 2, twice))):
            names[f"mlp.experts.{expert}.{theirs}_proj.weight"] = Slot("gate_up", (expert, part))
        names[f"mlp.experts.{expert}.down_proj.weight"] = Slot("down", (expert,))
    for ours in ("gate", "up", "down"):
        shared = getattr(module, f"shared_{ours}", None)
        if shared is not None:
            names |= whole(shared, at=f"shared_{ours}.", under=f"mlp.shared_experts.{ours}_proj.")
    return names


@known_names.register
def _causal_language_model(module: CausalLanguageModel) -> Names:
    names = whole(module.embedding, at="embedding.", under="embed_tokens.")
    names |= trunk_names(module.trunk)
    names |= whole(module.norm, at="norm.", under="norm.")
    return names if module.head is None else names | whole(module.head, at="head.", under="lm_head.")
