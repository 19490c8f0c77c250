"""Two attentions without a mask; on CPU all tokens to the prefix, and queries causally to themselves, merged.

With o_i and l_i the output and log-sum-exp of each part, l = log(exp l_1 + exp l_2) and o = sum_i exp(l_i - l) o_i. A
flash backward needs nothing of the softmax but o and l, so each part's own backward, given the merged pair, returns
that part's share of the exact gradient.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def prefix_attention(query: Tensor, key: Tensor, value: Tensor, *, prefix: int, scale: float | None) -> Tensor:
    """See `kernels.prefix_attention`."""
    length = query.shape[2]
    options: dict[str, Any] = {"scale": scale, "enable_gqa": query.shape[1] != key.shape[1]}
    if prefix == 0:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, **options)
    if prefix == length:
        return F.scaled_dot_product_attention(query, key, value, **options)
    if query.device.type == "cpu":
        return _Merged.apply(*map(_with_unit_stride, (query, key, value)), prefix, scale)
    visual = F.scaled_dot_product_attention(query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix], **options)
    mask = _lower_right(length - prefix, length, query.device)
    queries = F.scaled_dot_product_attention(query[:, :, prefix:], key, value, attn_mask=mask, **options)
    return torch.cat([visual, queries], 2)


def _lower_right(new: int, seen: int, device: torch.device) -> Tensor:
    if device.type == "meta":
        # where the operations of a model are counted, no subclass of Tensor can be made
        return torch.ones(new, seen, dtype=torch.bool, device=device).tril(seen - new)
    from torch.nn.attention.bias import causal_lower_right  # it imports the compiler

    return causal_lower_right(new, seen)


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, prefix: int, scale: float | None) -> Tensor:
        output, log_sum = _flash(query, key[:, :, :prefix], value[:, :, :prefix], scale=scale)
        own_output, own_log_sum = _flash(*_later(prefix, query, key, value), is_causal=True, scale=scale)
        later_output, later_log_sum = _later(prefix, output, log_sum)
        merged = torch.logaddexp(later_log_sum, own_log_sum)
        share = (own_log_sum - merged).exp_()[..., None].to(output.dtype)
        later_output.copy_(torch.lerp(later_output, own_output, share))
        later_log_sum.copy_(merged)
        ctx.save_for_backward(query, key, value, output, log_sum)
        ctx.prefix, ctx.scale = prefix, scale
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, log_sum = ctx.saved_tensors
        prefix, scale, gradient = ctx.prefix, ctx.scale, _with_unit_stride(gradient)
        d_query, d_key, d_value = _flash_backward(
            gradient, query, key[:, :, :prefix], value[:, :, :prefix], output, log_sum, 0.0, False, scale=scale
        )
        own = _flash_backward(*_later(prefix, gradient, query, key, value, output, log_sum), 0.0, True, scale=scale)
        d_query[:, :, prefix:] += own[0]
        return d_query, torch.cat([d_key, own[1]], 2), torch.cat([d_value, own[2]], 2), None, None


def _later(prefix: int, *tensors: Tensor) -> list[Tensor]:
    return [tensor[:, :, prefix:] for tensor in tensors]


def _with_unit_stride(tensor: Tensor) -> Tensor:
    # all that the flash kernel asks of strides
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
