"""What kernels over streams share: addresses of tokens, loads of n streams at once, sizes of blocks.

A kernel sees tokens as [outer, inner], so that [B, S] of any two strides needs no copy, and holds the streams of a
block as n separate tiles [TOKENS, WIDTH] in fp32, unrolled: products with n x n matrices are then plain multiply-adds
between registers of one lane, and nothing is padded to a power of two.
"""

import triton
import triton.language as tl
from torch import Tensor

from kernels.registration import interpreted

# elements of a tile: four warps of 32 lanes that hold 8 of them each, 16 bytes of bf16
TILE = 1024
# the interpreter runs one program after another in Python, so it is given few large ones
INTERPRETED_TILE = 8192


@triton.jit
def row_offsets(token, inner, stride_outer, stride_inner):
    """Where the rows of tokens [TOKENS] begin, in elements."""
    outer = token // inner
    return outer.to(tl.int64) * stride_outer + (token - outer * inner).to(tl.int64) * stride_inner


@triton.jit
def load_streams(pointers, stride, mask, N: tl.constexpr):
    """N tiles in fp32, `stride` elements apart; 0 where masked."""
    tiles = ()
    for j in tl.static_range(N):
        tile = tl.load(pointers + tl.full((), j, tl.int64) * stride, mask=mask, other=0.0)
        tiles = tiles + (tile.to(tl.float32),)
    return tiles


@triton.jit
def weighted_sum(weights, tiles, N: tl.constexpr):
    """sum_j weights_j tile_j for N weights [TOKENS] and N tiles [TOKENS, WIDTH]."""
    total = weights[0][:, None] * tiles[0]
    for j in tl.static_range(1, N):
        total += weights[j][:, None] * tiles[j]
    return total


@triton.jit
def lane_sums(tile, TOKENS: tl.constexpr, LANES: tl.constexpr, EACH: tl.constexpr):
    """[TOKENS, LANES x EACH] -> [TOKENS, LANES]: what one lane holds is added up, and no lane waits for another."""
    return tl.sum(tl.reshape(tile, [TOKENS, LANES, EACH]), 2)


def two_leading(tensor: Tensor, trailing: int) -> Tensor:
    """[..., trailing dimensions] -> [outer, inner, trailing dimensions]; a view unless three strides do not merge."""
    leading = tensor.dim() - trailing
    if leading < 2:
        return tensor[(None,) * (2 - leading)]
    return tensor.flatten(0, leading - 2) if leading > 2 else tensor


def tile_of(width: int, largest: int = 512) -> tuple[int, int]:
    """(TOKENS, WIDTH) of a tile: the widest that wastes least of the last block, its tokens filling the warps.

    Args:
        width: C.
        largest: the largest WIDTH.
    """
    size = INTERPRETED_TILE if interpreted() else TILE
    candidates = [w for w in (512, 256, 128) if w <= largest]
    block = min(candidates, key=lambda w: (-(-width // w) * w, -w))
    block = min(block, max(16, triton.next_power_of_2(width)))
    return max(1, size // block), block


def elements_per_lane(block: int, *streams: Tensor) -> int:
    """Elements of a row that one lane holds: 16 bytes of the smallest dtype among the streams."""
    return min(block, 16 // min(tensor.element_size() for tensor in streams))
