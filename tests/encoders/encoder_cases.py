"""The vision encoders at a tiny width, and how transformers' names of a block become a trunk's."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from encoders.causal_flow import CausalFlowEncoder
from encoders.clip import CLIPEncoder
from encoders.interface import VisionEncoder
from encoders.mbart import MBARTEncoder
from encoders.qformer import QFormerEncoder
from encoders.raster import RasterEncoder

WIDTH, GRID = 16, (3, 4)
M = GRID[0] * GRID[1]
SHAPE = {"width": WIDTH, "heads": 2, "hidden": 24}

WITH_QUERIES: dict[str, Callable[..., VisionEncoder]] = {
    "causal flow": partial(CausalFlowEncoder, **SHAPE, depth=2, key_value_heads=1),
    "CLIP": partial(CLIPEncoder, **SHAPE, depth=2, grid=2),
    "mBART": partial(MBARTEncoder, **SHAPE, encoder_depth=2, decoder_depth=2, max_positions=24),
    "Q-Former": partial(QFormerEncoder, **SHAPE, depth=3),
}
ALL = WITH_QUERIES | {"CLIP without queries": WITH_QUERIES["CLIP"], "raster": partial(RasterEncoder, width=WIDTH)}
WITH_TRUNK = {name: make for name, make in ALL.items() if name != "raster"}


def tokens(count: int, width: int = WIDTH, *, batch: int = 2, seed: int = 5, dtype=torch.float64) -> Tensor:
    """Random tokens [batch, count, width]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, count, width, generator=generator, dtype=torch.float64).to(dtype)


def inputs(name: str, q: int = M, dtype=torch.float64) -> tuple[Tensor, Tensor | None]:
    """Visual tokens and, for the cases that take them, queries."""
    return tokens(M, dtype=dtype), tokens(q, seed=6, dtype=dtype) if name in WITH_QUERIES else None


def block_names(theirs: dict[str, Tensor], prefix: str, first: int, ours: str, parts: list[tuple]) -> dict[str, Tensor]:
    """Tensors of one block of transformers by the names of our trunk.

    Args:
        theirs: tensors by transformers' name.
        prefix: of the block, with its dot.
        first: index of the block's first sublayer.
        ours: name of the trunk.
        parts: a (kind, norm, module or pair of layers) for each sublayer, kinds "self", "cross" and "feed".
    """
    renamed = {}
    for index, (kind, norm, *modules) in enumerate(parts, first):
        sublayer = f"{ours}.sublayers.{index}"
        for end in ("weight", "bias"):
            projections = [f"{prefix}{modules[0]}.{letter}_proj.{end}" for letter in "qkv"]
            names = {
                "self": {"query_key_value": projections, "output": [f"{prefix}{modules[0]}.out_proj.{end}"]},
                "cross": {
                    "query": projections[:1],
                    "key_value": projections[1:],
                    "output": [f"{prefix}{modules[0]}.out_proj.{end}"],
                },
                "feed": {"up": [f"{prefix}{modules[0]}.{end}"], "down": [f"{prefix}{modules[-1]}.{end}"]},
            }[kind]
            renamed[f"{sublayer}.norm.{end}"] = theirs[f"{prefix}{norm}.{end}"]
            for name, sources in names.items():
                renamed[f"{sublayer}.{name}.{end}"] = torch.cat([theirs[source] for source in sources])
    return renamed


def attention_by_hand(query: Tensor, key: Tensor, value: Tensor, heads: int, visible: Tensor | None = None) -> Tensor:
    """Softmax attention of [B, S, C] in single steps, heads joined again."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    scores = query @ key.mT / query.shape[-1] ** 0.5
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def all_gradients(module: torch.nn.Module, output: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """Output, and the gradients of inputs and parameters under a random upstream, by name."""
    named = leaves | dict(module.named_parameters())
    generator = torch.Generator().manual_seed(11)
    upstream = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    found = torch.autograd.grad(output, list(named.values()), upstream, allow_unused=True)
    return {"output": output.detach()} | {
        name: gradient for name, gradient in zip(named, found, strict=True) if gradient is not None
    }


def moved_by(encoder: VisionEncoder, visual: Tensor, queries: Tensor | None, *, of: str, at: int) -> Tensor:
    """How far each output moves, [positions], when token `at` of "visual" or "queries" is another one."""
    changed = {"visual": visual, "queries": queries}
    changed[of] = changed[of].clone()
    changed[of][:, at] = tokens(1, changed[of].shape[-1], seed=9)[:, 0]
    with torch.no_grad():
        before = encoder(visual, queries, GRID)
        after = encoder(changed["visual"], changed["queries"], GRID)
    return (after - before).abs().amax((0, 2))
