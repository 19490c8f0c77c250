"""MBARTEncoder against transformers' mBART encoder and decoder, and its causality among the queries."""

import pytest
import torch
from encoder_cases import GRID, WITH_QUERIES, M, all_gradients, block_names, inputs, moved_by, tokens
from helpers import FP32, FP64, assert_close, randomise, relative_error
from torch import nn

from encoders.mbart import MBARTEncoder

WIDTH, POSITIONS = 32, 40
SELF, FEED = ("self", "self_attn_layer_norm", "self_attn"), ("feed", "final_layer_norm", "fc1", "fc2")
CROSS = ("cross", "encoder_attn_layer_norm", "encoder_attn")


def renamed(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ours = {}
    for side, positions in (("encoder", "visual"), ("decoder", "query")):
        # the first two rows of transformers' table belong to no position
        ours[f"{positions}_positions"] = theirs[f"{side}.embed_positions.weight"][2:]
        for end in ("weight", "bias"):
            ours[f"{positions}_norm.{end}"] = theirs[f"{side}.layernorm_embedding.{end}"]
            ours[f"{side}_norm.{end}"] = theirs[f"{side}.layer_norm.{end}"]
    for block in range(2):
        ours |= block_names(theirs, f"encoder.layers.{block}.", 2 * block, "encoder", [SELF, FEED])
    for block in range(3):
        ours |= block_names(theirs, f"decoder.layers.{block}.", 3 * block, "decoder", [SELF, CROSS, FEED])
    return ours


@pytest.mark.parametrize(("grid", "q"), [((3, 4), 5), ((3, 4), 12), ((2, 3), 17)])
def test_it_equals_transformers(grid, q):
    modeling = pytest.importorskip("transformers.models.mbart.modeling_mbart")
    config = pytest.importorskip("transformers").MBartConfig(
        vocab_size=16,
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=POSITIONS,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
    )
    config._attn_implementation = "eager"
    parts = {"encoder": modeling.MBartEncoder(config), "decoder": modeling.MBartDecoder(config)}
    oracle = randomise(nn.ModuleDict(parts), 0.2).eval()
    ours = MBARTEncoder(
        width=WIDTH, encoder_depth=2, decoder_depth=3, heads=4, hidden=48, max_positions=POSITIONS
    ).eval()
    ours.load_state_dict(renamed(oracle.state_dict()))

    m = grid[0] * grid[1]
    visual, queries, their_visual, their_queries = (
        tokens(count, WIDTH, seed=seed, dtype=torch.float32).requires_grad_()
        for count, seed in ((m, 5), (q, 6), (m, 5), (q, 6))
    )
    memory = oracle["encoder"](inputs_embeds=their_visual).last_hidden_state
    expected = oracle["decoder"](inputs_embeds=their_queries, encoder_hidden_states=memory, use_cache=False)
    found = all_gradients(ours, ours(visual, queries, grid), {"visual": visual, "queries": queries})
    wanted = all_gradients(oracle, expected.last_hidden_state, {"visual": their_visual, "queries": their_queries})
    kept = {name: wanted.pop(name) for name in ("output", "visual", "queries")}
    assert_close(found, kept | renamed(wanted), FP32)


@pytest.mark.parametrize("at", [0, 4, M - 1])
def test_a_query_changes_nothing_before_it_and_everything_after(at):
    encoder = randomise(WITH_QUERIES["mBART"]().double(), 0.2)
    moved = moved_by(encoder, *inputs("mBART"), of="queries", at=at)
    assert (moved[:at] == 0).all()
    assert moved[at:].min() > 1e-4


@pytest.mark.parametrize("at", [0, M - 1])
def test_every_query_sees_all_visual_tokens(at):
    encoder = randomise(WITH_QUERIES["mBART"]().double(), 0.2)
    assert moved_by(encoder, *inputs("mBART"), of="visual", at=at).min() > 1e-4


def test_every_visual_token_sees_all_visual_tokens_and_no_query():
    encoder = randomise(WITH_QUERIES["mBART"]().double(), 0.2)
    memories = []
    encoder.encoder_norm.register_forward_hook(lambda module, arguments, memory: memories.append(memory))
    visual, queries = inputs("mBART")
    moved_by(encoder, visual, queries, of="queries", at=0)
    assert torch.equal(*memories)
    moved_by(encoder, visual, queries, of="visual", at=M - 1)
    assert (memories[-1] - memories[0]).abs().amax((0, 2)).min() > 1e-4


def test_the_order_of_queries_counts():
    encoder = randomise(WITH_QUERIES["mBART"]().double(), 0.2)
    visual, queries = inputs("mBART")
    assert relative_error(encoder(visual, queries.flip(1), GRID).flip(1), encoder(visual, queries, GRID)) > 1e-2


@pytest.mark.parametrize(("m", "q", "named"), [((5, 5), 3, "visual tokens, got 25"), (GRID, 25, "queries, got 25")])
def test_more_tokens_than_positions_are_named(m, q, named):
    with pytest.raises(ValueError, match=f"positions for 24 {named}: raise max_positions"):
        WITH_QUERIES["mBART"]().double()(tokens(m[0] * m[1]), tokens(q), m)


def test_as_many_tokens_as_positions_are_fine():
    encoder = WITH_QUERIES["mBART"]().double()
    assert relative_error(encoder(tokens(24), tokens(24), (4, 6)), torch.zeros(2, 24, 16)) > FP64


@pytest.mark.parametrize("name", ["width", "encoder_depth", "decoder_depth", "max_positions"])
def test_a_size_below_one_is_named(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1"):
        WITH_QUERIES["mBART"](**{name: 0})
