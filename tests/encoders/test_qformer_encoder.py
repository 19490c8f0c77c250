"""QFormerEncoder against its definition written out, and who sees whom, by perturbation."""

import pytest
import torch
import torch.nn.functional as F
from encoder_cases import GRID, WITH_QUERIES, M, all_gradients, attention_by_hand, inputs, moved_by, tokens
from helpers import FP64, assert_close, randomise, relative_error
from torch import Tensor

from mhc import CrossAttention


def normed(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def by_definition(weights: dict[str, Tensor], visual: Tensor, x: Tensor, *, depth: int, every: int) -> Tensor:
    """Pre-norm blocks over the queries alone; LayerNorm(V) is read in blocks 0, every, 2 every, ..."""
    memory, index = normed(visual, weights, "memory_norm"), 0
    for block in range(depth):
        part = f"trunk.sublayers.{index}"
        heads = linear(normed(x, weights, f"{part}.norm"), weights, f"{part}.query_key_value").chunk(3, -1)
        x = x + linear(attention_by_hand(*heads, 2), weights, f"{part}.output")
        index += 1
        if block % every == 0:
            part = f"trunk.sublayers.{index}"
            query = linear(normed(x, weights, f"{part}.norm"), weights, f"{part}.query")
            key, value = linear(memory, weights, f"{part}.key_value").chunk(2, -1)
            x = x + linear(attention_by_hand(query, key, value, 2), weights, f"{part}.output")
            index += 1
        part = f"trunk.sublayers.{index}"
        x = x + linear(
            F.gelu(linear(normed(x, weights, f"{part}.norm"), weights, f"{part}.up")), weights, f"{part}.down"
        )
        index += 1
    return normed(x, weights, "norm")


@pytest.mark.parametrize(("every", "memory_width", "q"), [(1, None, 5), (2, None, M), (2, 10, 2 * M), (3, 24, 1)])
def test_it_equals_its_definition(every, memory_width, q):
    encoder = WITH_QUERIES["Q-Former"](cross_attention_every=every, memory_width=memory_width)
    encoder = randomise(encoder.double(), 0.2)
    leaves = {"visual": tokens(M, memory_width or 16).requires_grad_(), "queries": tokens(q, seed=6).requires_grad_()}
    actual = all_gradients(encoder, encoder(*leaves.values(), GRID), leaves)
    definition = by_definition(dict(encoder.named_parameters()), *leaves.values(), depth=3, every=every)
    expected = all_gradients(encoder, definition, leaves)
    assert_close(actual, expected, FP64)
    assert len(actual) == 1 + len(leaves) + len(list(encoder.parameters()))


@pytest.mark.parametrize(("of", "at"), [("queries", 0), ("queries", M - 1), ("visual", 0), ("visual", M - 1)])
def test_every_query_sees_all_queries_and_all_visual_tokens(of, at):
    encoder = randomise(WITH_QUERIES["Q-Former"]().double(), 0.2)
    assert moved_by(encoder, *inputs("Q-Former"), of=of, at=at).min() > 1e-4


@pytest.mark.parametrize(("depth", "every", "reading"), [(3, 2, [0, 2]), (4, 1, [0, 1, 2, 3]), (5, 3, [0, 3])])
def test_blocks_without_cross_attention_do_not_see_the_image(depth, every, reading):
    # sublayers in the order of their blocks: a block begins with self-attention
    for block in range(depth):
        encoder = WITH_QUERIES["Q-Former"](depth=depth, cross_attention_every=every).double()
        sublayers = list(randomise(encoder, 0.2).trunk.sublayers)
        starts = [i for i, sublayer in enumerate(sublayers) if hasattr(sublayer, "query_key_value")]
        of_block = sublayers[starts[block] : [*starts, len(sublayers)][block + 1]]
        for sublayer in sublayers:
            if isinstance(sublayer, CrossAttention) and sublayer not in of_block:
                torch.nn.init.zeros_(sublayer.output.weight)
        moved = moved_by(encoder, *inputs("Q-Former"), of="visual", at=3)
        assert moved.min() > 1e-4 if block in reading else moved.max() == 0


def test_the_visual_tokens_are_the_same_in_every_block_whatever_the_queries():
    encoder = randomise(WITH_QUERIES["Q-Former"](cross_attention_every=1).double(), 0.2)
    memories = []
    for sublayer in encoder.trunk.sublayers:
        if isinstance(sublayer, CrossAttention):
            sublayer.register_forward_hook(lambda module, arguments, y: memories.append(arguments[1].memory.clone()))
    visual, queries = inputs("Q-Former")
    moved_by(encoder, visual, queries, of="queries", at=0)
    assert len(memories) == 6
    assert all(torch.equal(memory, encoder.memory_norm(visual)) for memory in memories)


def test_neither_queries_nor_visual_tokens_have_positions():
    encoder = randomise(WITH_QUERIES["Q-Former"]().double(), 0.2)
    visual, queries = inputs("Q-Former")
    expected = encoder(visual, queries, GRID)
    assert relative_error(encoder(visual.flip(1), queries.flip(1), GRID).flip(1), expected) < FP64


def test_the_width_of_the_visual_tokens_is_named():
    encoder = WITH_QUERIES["Q-Former"](memory_width=10).double()
    assert (encoder.visual_width, encoder.width, encoder.output_width) == (10, 16, 16)
    with pytest.raises(ValueError, match=r"visual tokens \[B, 3 x 4, 10\], got \[2, 12, 16\]"):
        encoder(tokens(M), tokens(M), GRID)


@pytest.mark.parametrize("name", ["width", "memory_width", "depth", "cross_attention_every"])
def test_a_size_below_one_is_named(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1"):
        WITH_QUERIES["Q-Former"](**{name: 0})
