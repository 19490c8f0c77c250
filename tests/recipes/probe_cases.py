"""Pages whose reading order is known, and encoders that look at them in a known order by construction."""

from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from encoders.causal_flow import CausalFlowEncoder
from encoders.deep_encoder import DeepEncoder
from encoders.interface import VisualTokenizer
from encoders.ocr2 import OCR2
from encoders.patch import PatchTokenizer
from encoders.qformer import QFormerEncoder
from encoders.query_bank import QueryBank
from encoders.views import Views
from mhc import Attention, CausalLanguageModel, Residual, SwiGLU
from recipes.probes.pages import Block, ProbePage

SIDE, CELL = 8, 8  # cells of a page a side, pixels of a cell a side
COUNT, PIXELS = SIDE**2, SIDE * CELL
VIEWS = Views(global_size=PIXELS, max_crops=0)


def block_cells(k: int) -> list[int]:
    """The cells of block k of two columns of four blocks, numbered column by column; a block is 2 x 4 cells."""
    column, row = divmod(k, 4)
    return [(2 * row + y) * SIDE + 4 * column + x for y in range(2) for x in range(4)]


def column_order() -> list[int]:
    """All cells, block by block and column by column."""
    return [cell for k in range(8) for cell in block_cells(k)]


def page(order: list[int], name: str = "page", page_type: str = "book") -> ProbePage:
    """A page whose block k comes at place order[k]; each cell's grey is its place in the reading, 4 levels a step."""
    levels = np.zeros(COUNT, dtype=np.uint8)
    blocks = []
    for k, place in enumerate(order):
        levels[block_cells(k)] = 4 * (8 * place + np.arange(8))
        column, row = divmod(k, 4)
        left, top = 4 * CELL * column + 2, 2 * CELL * row + 2
        blocks.append(Block((left, top, left + 4 * CELL - 4, top + 2 * CELL - 4), place + 1, f"block {place}"))
    grey = np.kron(levels.reshape(SIDE, SIDE), np.ones((CELL, CELL), dtype=np.uint8))
    return ProbePage(name, Image.fromarray(grey).convert("RGB"), tuple(blocks), page_type, "double_column")


def in_columns(name: str = "columns") -> ProbePage:
    """Left column from top to bottom, then the right one."""
    return page(list(range(8)), name)


def in_disorder(count: int = 4) -> list[ProbePage]:
    """Pages whose order only the content tells."""
    generator = np.random.default_rng(4)
    return [page(generator.permutation(8).tolist(), f"page{k}", f"type{k % 2}") for k in range(count)]


class PlantedTokenizer(VisualTokenizer):
    """Visual tokens are one-hot: of the cell's grey, or of its place."""

    def __init__(self, by_content: bool) -> None:
        super().__init__()
        self.by_content, self.width, self.stride = by_content, COUNT, CELL

    def forward(self, pixels: Tensor, observe=None) -> Tensor:
        cells = torch.nn.functional.avg_pool2d(pixels.mean(1, keepdim=True), CELL).flatten(1)
        grey = ((cells * 0.5 + 0.5) * 255 / 4).round().long().clamp(0, COUNT - 1)
        place = torch.arange(COUNT).expand_as(grey)
        return torch.nn.functional.one_hot(grey if self.by_content else place, COUNT).to(pixels.dtype)


@torch.no_grad()
def planted(by_content: bool, order: list[int] | None = None) -> DeepEncoder:
    """A Q-Former whose query k looks at the cell of grey k, or at the cell order[k]."""
    encoder = QFormerEncoder(width=COUNT, depth=1, heads=1, hidden=4)
    own, across, feed_forward = encoder.trunk.sublayers
    for silent in (own.output, feed_forward.down):
        silent.weight.zero_()
    eye = torch.eye(COUNT)
    across.query.weight.copy_(2 * eye)
    across.key_value.weight.copy_(torch.cat([eye, eye]))
    across.output.weight.copy_(eye)
    queries = QueryBank(width=COUNT, counts={PIXELS: COUNT}, stride=CELL)
    queries._bank(PIXELS).copy_(eye if order is None else eye[order])
    return DeepEncoder(PlantedTokenizer(by_content), encoder, 16, queries).eval()


def fresh(seed: int, encoder=None, std: float | None = None) -> DeepEncoder:
    """An encoder that nobody trained; with `std`, one whose parameters are normal noise."""
    torch.manual_seed(seed)
    made = encoder or CausalFlowEncoder(width=32, depth=2, heads=4, key_value_heads=2, hidden=64)
    tokenizer = PatchTokenizer(width=32, patch=CELL, positions=SIDE)
    vision = DeepEncoder(tokenizer, made, 16, QueryBank(width=32, counts={PIXELS: COUNT}, stride=CELL)).eval()
    if std is not None:
        with torch.no_grad():
            for parameter in vision.parameters():
                parameter.normal_(std=std)
    return vision


def network(vocabulary: int = 300, image_token: int = 259, counts: dict | None = None) -> OCR2:
    """A tiny whole model for pages of `PIXELS`."""
    torch.manual_seed(0)
    return OCR2(
        tokenizer=PatchTokenizer(width=16, patch=CELL),
        encoder=CausalFlowEncoder(width=16, depth=1, heads=2, key_value_heads=1, hidden=16),
        queries=QueryBank(width=16, counts=counts or {PIXELS: 16}, stride=CELL),
        decoder=CausalLanguageModel(
            vocabulary, 16, 1, topology=Residual, attention=partial(Attention, heads=2),
            feed_forward=partial(SwiGLU, hidden=16), tied=False,
        ),
        image_token=image_token,
    ).eval()  # fmt: skip
