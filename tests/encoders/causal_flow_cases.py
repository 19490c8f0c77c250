"""Small causal-flow encoders for the tests, and the encoder's definition under any dense mask."""

import torch
from helpers import randomise
from torch import Tensor

from encoders.causal_flow import CausalFlowEncoder

WIDTH, HEADS, GROUPS, HIDDEN, DEPTH, BASE = 32, 4, 2, 64, 2, 1e6
# (visual tokens, queries); the last pair is long enough for the two attentions without a mask
SIZES = [(9, 9), (9, 5), (4, 12), (72, 60)]


def encoder_of(scale: float = 0.2, dtype: torch.dtype = torch.float64, **options) -> CausalFlowEncoder:
    torch.manual_seed(0)
    shape = {"width": WIDTH, "depth": DEPTH, "heads": HEADS, "key_value_heads": GROUPS, "hidden": HIDDEN}
    encoder = CausalFlowEncoder(**shape | options)
    for part in (encoder.trunk.sublayers, encoder.norm):
        randomise(part, scale)
    return encoder.to(dtype)


def inputs_of(sizes: tuple[int, int], dtype: torch.dtype = torch.float64, seed: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, count, WIDTH, generator=generator, dtype=torch.float64).to(dtype) for count in sizes]


def run(encoder: CausalFlowEncoder, visual: Tensor, queries: Tensor) -> Tensor:
    return encoder(visual, queries, (1, visual.shape[1]))


def causal_flow_mask(visual: int, queries: int) -> Tensor:
    """[[1, 0], [1, LowerTri]] (arXiv 2601.20552), block by block."""
    above = torch.cat([torch.ones(visual, visual), torch.zeros(visual, queries)], 1)
    below = torch.cat([torch.ones(queries, visual), torch.ones(queries, queries).tril()], 1)
    return torch.cat([above, below]).bool()


def bidirectional_queries_mask(visual: int, queries: int) -> Tensor:
    """[[1, 0], [1, 1]]."""
    mask = torch.ones(visual + queries, visual + queries, dtype=torch.bool)
    mask[:visual, visual:] = False
    return mask


def under_mask(encoder: CausalFlowEncoder, visual: Tensor, queries: Tensor, mask: Tensor) -> Tensor:
    """The encoder's blocks as sums over matrices of scores, -inf where the mask is False."""
    x = torch.cat([visual, queries], 1)
    width = WIDTH // HEADS
    frequencies = BASE ** (-2 * torch.arange(width // 2, dtype=torch.float64) / width)
    angles = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * frequencies
    turn = torch.polar(torch.ones_like(angles), angles)
    for attention, feed_forward in zip(encoder.trunk.sublayers[::2], encoder.trunk.sublayers[1::2], strict=True):
        parts = attention.query_key_value(normed(attention.norm, x)).unflatten(-1, (-1, width)).transpose(1, 2)
        query, key, value = parts.split([HEADS, GROUPS, GROUPS], 1)
        query, key = (turned(tensor, turn) for tensor in (query, key))
        key, value = (tensor.repeat_interleave(HEADS // GROUPS, 1) for tensor in (key, value))
        scores = (query @ key.mT / width**0.5).masked_fill(~mask, -torch.inf)
        x = x + attention.output((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        y = normed(feed_forward.norm, x)
        gate = feed_forward.gate(y)
        x = x + feed_forward.down(gate * gate.sigmoid() * feed_forward.up(y))
    return normed(encoder.norm, x)[:, visual.shape[1] :]


def normed(norm: torch.nn.Module, x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight


def turned(x: Tensor, turn: Tensor) -> Tensor:
    turned = torch.complex(*x.chunk(2, -1)) * turn
    return torch.cat([turned.real, turned.imag], -1)
