"""Every value of a module has one name in a checkpoint, whatever the module is made of."""

from functools import partial

import pytest
import torch
from torch import nn

from mhc import Attention, CausalLanguageModel, CrossAttention, FeedForward, ManifoldHyperConnection, Residual, SwiGLU
from mhc.mixture_of_experts import MixtureOfExperts
from mhc.names import Slot, known_names, placed, released_names, whole


def decoder(**changes):
    parts = {
        "topology": Residual,
        "attention": partial(Attention, heads=4, key_value_heads=2),
        "feed_forward": partial(MixtureOfExperts, experts=5, chosen=2, hidden=6, shared=2),
        "dense_feed_forward": partial(SwiGLU, hidden=12),
        "dense_blocks": 1,
        "tied": False,
    }
    return CausalLanguageModel(11, 8, 3, **parts | changes)


def test_a_slot_is_a_slice_that_shares_memory():
    weight = torch.arange(24.0).view(2, 4, 3)
    part = Slot("w", (1, slice(2, 4))).of({"w": weight})
    assert torch.equal(part, torch.arange(18.0, 24.0).view(2, 3))
    part.zero_()
    assert weight[1, 2:].abs().sum() == 0
    assert Slot("w").of({"w": weight}).data_ptr() == weight.data_ptr()


def test_queries_keys_and_values_are_rows_of_one_matrix():
    module = Attention(8, heads=4, key_value_heads=2, bias=True, query_key_norm=True)
    names, state = released_names(module), module.state_dict()
    assert set(names) == {
        "input_layernorm.weight",
        *(f"self_attn.{letter}_proj.{kind}" for letter in "qkv" for kind in ("weight", "bias")),
        "self_attn.o_proj.weight",
        "self_attn.q_norm.weight",
        "self_attn.k_norm.weight",
    }
    for kind in ("weight", "bias"):
        parts = [names[f"self_attn.{letter}_proj.{kind}"].of(state) for letter in "qkv"]
        assert [len(part) for part in parts] == [8, 4, 4]
        assert torch.equal(torch.cat(parts), state[f"query_key_value.{kind}"])


def test_an_expert_has_its_rows_of_the_stack():
    module = MixtureOfExperts(8, experts=5, chosen=2, hidden=6, shared=2)
    names, state = released_names(module), module.state_dict()
    for expert in range(5):
        part = {kind: names[f"mlp.experts.{expert}.{kind}_proj.weight"].of(state) for kind in ("gate", "up", "down")}
        assert torch.equal(torch.cat([part["gate"], part["up"]]), state["gate_up"][expert])
        assert torch.equal(part["down"], state["down"][expert])
    assert names["mlp.gate.weight"].of(state) is not None
    assert names["mlp.shared_experts.up_proj.weight"].of(state).shape == (12, 8)
    lonely = released_names(MixtureOfExperts(8, experts=5, chosen=2, hidden=6, shared=0))
    assert not any("shared" in name for name in lonely)


def test_the_decoder_has_the_names_of_llama_and_deepseek():
    names = released_names(decoder())
    assert {"embed_tokens.weight", "norm.weight", "lm_head.weight"} <= names.keys()
    assert {name for name in names if name.startswith("layers.0.mlp")} == {
        f"layers.0.mlp.{kind}_proj.weight" for kind in ("gate", "up", "down")
    }
    assert {"layers.2.mlp.gate.weight", "layers.2.mlp.experts.4.up_proj.weight"} <= names.keys()
    assert not any("trunk" in name for name in names)
    assert "lm_head.weight" not in released_names(decoder(tied=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"topology": partial(ManifoldHyperConnection, streams=2)},
        {"feed_forward": partial(FeedForward, hidden=9, bias=True)},
        {"attention": partial(SwiGLU, hidden=7)},  # both sublayers of a block claim the same names
        {"attention": partial(CrossAttention, heads=2)},
        {"attention": partial(Attention, heads=2, norm=nn.LayerNorm, output_bias=True)},
    ],
)
def test_every_value_has_one_name_whatever_the_parts(changes):
    module = decoder(**changes)
    state = module.state_dict()
    seen = {name: torch.zeros_like(tensor, dtype=torch.int) for name, tensor in state.items()}
    for slot in released_names(module).values():
        slot.of(seen).add_(1)
    assert all((count == 1).all() for count in seen.values())


def test_what_has_no_released_name_keeps_its_own():
    names = released_names(decoder(topology=partial(ManifoldHyperConnection, streams=2)))
    own = [name for name in names if "topologies" in name]
    assert own
    assert all(names[name] == Slot(name) for name in own)
    plain = FeedForward(8, hidden=9)
    assert released_names(plain) == {name: Slot(name) for name in plain.state_dict()}


def test_a_name_that_leaves_values_out_is_an_error():
    class Half(nn.Linear):
        pass

    @known_names.register
    def _(module: Half):
        return {"half": Slot("weight", (slice(0, 2),))}

    with pytest.raises(ValueError, match="cover 6 of the 12 values of weight"):
        released_names(Half(3, 4))


def test_names_move_with_their_part():
    names = placed({"b": Slot("a", (1,))}, at="here.", under="there.")
    assert names == {"there.b": Slot("here.a", (1,))}
    assert whole(nn.Linear(1, 1), at="x.", under="y.") == {f"y.{k}": Slot(f"x.{k}") for k in ("weight", "bias")}
