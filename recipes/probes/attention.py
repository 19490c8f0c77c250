"""Where queries look: the attention weights of an encoder's sublayers, computed again beside its forward pass."""

from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any, cast

import torch
from torch import Tensor, nn

from encoders.causal_flow import BidirectionalQueryAttention, PrefixAttention
from encoders.deep_encoder import DeepEncoder
from mhc import Attention, CrossAttention
from mhc.attention import rotate
from mhc.context import Context

# of a sublayer's output, relative; half precision keeps 2^-9 of a value
AGREEMENT = {torch.float64: 1e-6, torch.float32: 1e-3}
COARSE = 0.05


@dataclass(frozen=True)
class Attended:
    """What an attention sublayer mixes, and how.

    Attributes:
        weights: [B, H, S, M], softmax over M, fp32 at least.
        values: [B, H, M, D].
        of_memory: they are of the context's memory, not of x.
    """

    weights: Tensor
    values: Tensor
    of_memory: bool = False

    def output(self, sublayer: nn.Module) -> Tensor:
        """What the sublayer makes of it, [B, S, C]."""
        with torch.autocast(self.weights.device.type, enabled=False):
            mixed = (self.weights @ self.values.to(self.weights.dtype)).transpose(1, 2).flatten(2)
        return cast(nn.Linear, sublayer.output)(mixed.to(self.values.dtype))


@dataclass(frozen=True)
class Looks:
    """Where the queries of some views look.

    Attributes:
        maps: [L, B, q, m], attention weights of queries to visual tokens, mean over heads; L sublayers. What is missing
            to 1 looks at other queries.
        grid: (rows, columns) of the visual tokens.
        output: [B, q, D] of the encoder.
        raster: there are no queries: feature i stands for visual token i, and `maps` says so.
    """

    maps: Tensor
    grid: tuple[int, int]
    output: Tensor
    raster: bool = False


@singledispatch
def attention_of(sublayer: nn.Module, x: Tensor, context: Context) -> Attended | None:
    """Weights and values of a sublayer that reads x [B, S, C]; None for one without attention.

    A class of attention of one's own is made known by `attention_of.register`.
    """
    return None


@attention_of.register
def _of_attention(sublayer: Attention, x: Tensor, context: Context) -> Attended:
    length = x.shape[1]
    return _attended(*_heads(sublayer, x, context), context.visible(length, length, sublayer.causal, x.device))


@attention_of.register
def _of_prefix_attention(sublayer: PrefixAttention, x: Tensor, context: Context) -> Attended:
    length = x.shape[1]
    visible = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
    visible[: context.prefix, : context.prefix] = True
    return _attended(*_heads(sublayer, x, context), visible)


@attention_of.register
def _of_bidirectional_queries(sublayer: BidirectionalQueryAttention, x: Tensor, context: Context) -> Attended:
    length = x.shape[1]
    visible = torch.ones(length, length, dtype=torch.bool, device=x.device)
    visible[: context.prefix, context.prefix :] = False
    return _attended(*_heads(sublayer, x, context), visible)


@attention_of.register
def _of_cross_attention(sublayer: CrossAttention, x: Tensor, context: Context) -> Attended:
    assert context.memory is not None  # the sublayer itself has refused that
    heads, width = sublayer.heads, sublayer.head_width
    query = sublayer.query(sublayer.norm(x)).unflatten(-1, (heads, width))
    key, value = sublayer.key_value(context.memory).unflatten(-1, (2, heads, width)).unbind(2)
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    found = _attended(query, key, value, None)
    return replace(found, of_memory=True)


def _heads(sublayer: Attention, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
    heads = sublayer.query_key_value(sublayer.norm(x)).unflatten(-1, (-1, sublayer.head_width))
    query, key, value = heads.split([sublayer.heads, sublayer.key_value_heads, sublayer.key_value_heads], 2)
    query, key = sublayer.query_norm(query), sublayer.key_norm(key)
    if sublayer.rotary_base is not None:
        angles = context.rotation(x.shape[1], sublayer.head_width, sublayer.rotary_base, x.device)
        query, key = rotate(query, *angles), rotate(key, *angles)
    group = sublayer.heads // sublayer.key_value_heads
    key, value = (tensor.repeat_interleave(group, 2) for tensor in (key, value))
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return query, key, value


def _attended(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Attended:
    kind = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        scores = query.to(kind) @ key.to(kind).mT * query.shape[-1] ** -0.5
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    return Attended(scores.softmax(-1), value)


@torch.no_grad()
def look(vision: DeepEncoder, views: Tensor) -> Looks:
    """Encode views of one size [B, 3, H, W] and say where each query looked; the model stays as it is.

    Hooks compute the weights of every attention sublayer that goes from queries to visual tokens: cross-attention to
    m tokens, and self-attention over a sequence that ends in [V, Q].

    Raises:
        ValueError: an encoder with queries but no such sublayer, or one whose output the weights do not give.
    """
    maps: list[Tensor] = []
    seen: dict[str, Any] = {}

    def begin(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        visual, queries, grid = (*arguments, *named.values())[:3]
        seen.update(count=None if queries is None else queries.shape[1], visual=visual.shape[1], grid=grid)

    def end(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        seen["output"] = output

    def keep(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
        x, context, *_ = (*arguments, *named.values(), None)
        if seen["count"] is not None:
            maps.extend(_from_queries(module, x, context or Context(), output, seen["visual"], seen["count"]))

    encoder = vision.encoder
    known = [module for module in encoder.modules() if attention_of.dispatch(type(module)) is not _nothing]
    handles = [module.register_forward_hook(keep, with_kwargs=True) for module in known]
    handles += [
        encoder.register_forward_pre_hook(begin, with_kwargs=True),
        encoder.register_forward_hook(end),
    ]
    try:
        with torch.compiler.set_stance("force_eager"):
            vision.encode(views)
    finally:
        for handle in handles:
            handle.remove()
    if seen["count"] is None:
        count = seen["visual"]
        identity = torch.eye(count).expand(1, len(views), count, count)
        return Looks(identity, seen["grid"], seen["output"], raster=True)
    if not maps:
        raise ValueError(
            f"{type(encoder).__name__} has no attention from queries to visual tokens that is known: register its "
            "class with recipes.probes.attention.attention_of"
        )
    return Looks(torch.stack(maps), seen["grid"], seen["output"])


def _from_queries(
    sublayer: nn.Module, x: Tensor, context: Context, output: Tensor, visual: int, queries: int
) -> list[Tensor]:
    """The weights [B, q, m] of a sublayer from queries to visual tokens; none where it looks elsewhere."""
    length, found = x.shape[1], attention_of(sublayer, x, context)
    # queries among themselves, or visual tokens
    if found is None or not (found.of_memory or length >= visual + queries):
        return []
    difference = (found.output(sublayer) - output).double().norm() / output.double().norm().clamp_min(1e-30)
    if not difference <= AGREEMENT.get(found.values.dtype, COARSE):
        raise ValueError(
            f"the attention weights of {type(sublayer).__name__} do not give its output, they are off by "
            f"{float(difference):.2g}: register the class with recipes.probes.attention.attention_of"
        )
    end = found.weights.shape[-1] - (0 if found.of_memory else queries)
    return [found.weights.mean(1)[:, length - queries :, end - visual : end].float().cpu()]


_nothing = attention_of.dispatch(object)
