"""CLIPEncoder against transformers' encoder of OCR 1, and with queries against dense attention written out."""

import pytest
import torch
import torch.nn.functional as F
from encoder_cases import GRID, WITH_QUERIES, M, all_gradients, attention_by_hand, block_names, inputs, moved_by, tokens
from helpers import FP32, FP64, assert_close, randomise, relative_error

from encoders.clip import CLIPEncoder

SIDE, DEPTH, WIDTH = 4, 2, 32
BLOCK = [("self", "layer_norm1", "self_attn"), ("feed", "layer_norm2", "mlp.fc1", "mlp.fc2")]


def renamed(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ours = {
        "class_token": theirs["embeddings.class_embedding"],
        "positions": theirs["embeddings.position_embedding.weight"],
        "norm.weight": theirs["pre_layrnorm.weight"],
        "norm.bias": theirs["pre_layrnorm.bias"],
    }
    for block in range(DEPTH):
        ours |= block_names(theirs, f"encoder.layers.{block}.", 2 * block, "trunk", BLOCK)
    return ours


def oracle_class():
    modeling = pytest.importorskip("transformers.models.unlimited_ocr.modeling_unlimited_ocr")
    configuration = pytest.importorskip("transformers.models.unlimited_ocr.configuration_unlimited_ocr")
    return modeling.UnlimitedOcrVisionEncoder, configuration.UnlimitedOcrVisionEncoderConfig


@pytest.mark.parametrize("grid", [(SIDE, SIDE), (6, 5), (2, 3)], ids=["native", "larger", "smaller"])
def test_it_equals_transformers(grid):
    make, configure = oracle_class()
    config = configure(
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=DEPTH,
        num_attention_heads=4,
        image_size=14 * SIDE,
    )
    config._attn_implementation = "eager"
    oracle = randomise(make(config), 0.2).eval()
    ours = CLIPEncoder(width=WIDTH, depth=DEPTH, heads=4, hidden=64, grid=SIDE)
    ours.load_state_dict(renamed(oracle.state_dict()))

    rows, columns = grid
    visual, theirs = (tokens(rows * columns, WIDTH, dtype=torch.float32).requires_grad_() for _ in range(2))
    actual = ours(visual, None, grid)
    expected = oracle(patch_embeds=theirs.mT.unflatten(-1, grid)).last_hidden_state[:, 1:]
    found = all_gradients(ours, actual, {"visual": visual})
    wanted = all_gradients(oracle, expected, {"visual": theirs})
    kept = {name: wanted.pop(name) for name in ("output", "visual")}
    assert_close(found, kept | renamed(wanted), FP32)


def test_it_has_clip_l_s_parameters_by_default():
    make, configure = oracle_class()
    with torch.device("meta"):
        ours, oracle = CLIPEncoder(), make(configure())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in oracle.parameters()) == 302_575_616


def by_definition(encoder: CLIPEncoder, visual: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """[class, V, Q] with positions on class and V, normalised, through pre-norm blocks of dense attention."""
    side = encoder.grid
    table = encoder.positions[1:].T.reshape(1, -1, side, side)
    resized = F.interpolate(table, size=GRID, mode="bicubic", antialias=True)[0].flatten(1).T
    first = (encoder.class_token + encoder.positions[0]).expand(len(visual), 1, -1)
    x = torch.cat([first, visual + resized, queries], 1)
    x = F.layer_norm(x, x.shape[-1:], encoder.norm.weight, encoder.norm.bias)
    for attention, feed_forward in zip(encoder.trunk.sublayers[::2], encoder.trunk.sublayers[1::2], strict=True):
        h = F.layer_norm(x, x.shape[-1:], attention.norm.weight, attention.norm.bias)
        heads = F.linear(h, attention.query_key_value.weight, attention.query_key_value.bias).chunk(3, -1)
        h = attention_by_hand(*heads, attention.heads)
        x = x + F.linear(h, attention.output.weight, attention.output.bias)
        h = F.layer_norm(x, x.shape[-1:], feed_forward.norm.weight, feed_forward.norm.bias)
        h = F.linear(h, feed_forward.up.weight, feed_forward.up.bias)
        h = h / (1 + torch.exp(-1.702 * h))
        x = x + F.linear(h, feed_forward.down.weight, feed_forward.down.bias)
    return x[:, -queries.shape[1] :]


@pytest.mark.parametrize("q", [3, M, 2 * M])
def test_with_queries_it_equals_its_definition(q):
    encoder = randomise(WITH_QUERIES["CLIP"]().double(), 0.2)
    visual, queries = (x.requires_grad_() for x in inputs("CLIP", q))
    leaves = {"visual": visual, "queries": queries}
    actual = all_gradients(encoder, encoder(visual, queries, GRID), leaves)
    expected = all_gradients(encoder, by_definition(encoder, visual, queries), leaves)
    assert_close(actual, expected, FP64)


@pytest.mark.parametrize(("of", "at"), [("queries", 0), ("queries", M - 1), ("visual", 0), ("visual", M - 1)])
def test_every_query_sees_all_queries_and_all_visual_tokens(of, at):
    encoder = randomise(WITH_QUERIES["CLIP"]().double(), 0.2)
    assert moved_by(encoder, *inputs("CLIP"), of=of, at=at).min() > 1e-4


def test_queries_get_no_positions():
    encoder = randomise(WITH_QUERIES["CLIP"]().double(), 0.2)
    visual, queries = inputs("CLIP")
    assert relative_error(encoder(visual, queries.flip(1), GRID).flip(1), encoder(visual, queries, GRID)) < FP64


def test_the_visual_tokens_are_appended_behind():
    plain = randomise(WITH_QUERIES["CLIP"]().double(), 0.2)
    joined = WITH_QUERIES["CLIP"](append_visual=True).double()
    joined.load_state_dict(plain.state_dict())
    visual, queries = inputs("CLIP")
    assert joined.output_width == 2 * plain.output_width
    expected = torch.cat([plain(visual, None, GRID), visual], -1)
    assert relative_error(joined(visual, None, GRID), expected) < FP64
    with pytest.raises(ValueError, match="append_visual"):
        joined(visual, queries, GRID)


@pytest.mark.parametrize("name", ["width", "depth", "grid"])
def test_a_size_below_one_is_named(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1"):
        WITH_QUERIES["CLIP"](**{name: 0})
