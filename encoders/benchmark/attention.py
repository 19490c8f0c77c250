"""Prefix attention against torch's attention under the dense mask, forward and backward."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from encoders.benchmark.rounds import PLACE, Run, Settings, Spread, alternate, ratio, spread
from kernels.benchmark.record import reason
from kernels.prefix_attention import prefix_attention
from kernels.prefix_attention.reference import dense_mask

FILE = "bench/prefix_attention_{device}.csv"
COLUMNS = (
    "visual_tokens", "queries", "heads", "key_value_heads", "head_width", "batch", "dtype", "code", "ms", "ms_p10",
    "ms_p90", "rounds", "dense", "dense_over_this", "dense_over_this_p10", "dense_over_this_p90", "reason", *PLACE,
)  # fmt: skip
COUNTS = (144, 256, 1024)
BATCH, HEADS, GROUPS, WIDTH = 1, 14, 2, 64
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
OURS, DENSE = ("auto", "flex"), ("dense mask", "dense mask, heads repeated")
# (device, count or None for every one) -> times as fast as the faster of the dense codes
GOALS = {("cpu", None): 1.0, ("cpu", 1024): 1.15, ("cuda", None): 1.5}


def rows(settings: Settings) -> Iterator[dict[str, Any]]:
    """A row for each dtype, size and code; ratios are over the dense code with the lower median."""
    for dtype, kind in DTYPES.items():
        for count in COUNTS:
            shape: dict[str, Any] = {"visual_tokens": count, "queries": count}
            shape |= {"heads": HEADS, "key_value_heads": GROUPS, "head_width": WIDTH, "batch": BATCH, "dtype": dtype}
            runs, failed = _runs(count, kind, settings.device)
            times = alternate(runs, settings)
            peers = [name for name in DENSE if name in times]
            peer = min(peers, key=lambda name: spread(times[name]).median, default="")
            for name, found in times.items():
                row = shape | {"code": name, "rounds": len(found), "dense": peer} | spread(found).columns("ms")
                yield row | (ratio(times, peer, name).columns("dense_over_this") if peer else {})
            yield from (shape | {"code": name, "reason": why} for name, why in failed.items())


def line(row: Mapping[str, Any]) -> str:
    """One row, for the terminal."""
    found = row["reason"] if "ms" not in row else f"{row['ms']:.2f} ms"
    if "dense_over_this" in row:
        found += f", {Spread.read(row, 'dense_over_this')} times as fast as {row['dense']}"
    return f"m = q = {row['visual_tokens']}, {row['dtype']}, {row['code']}: {found}"


def goals(found: Sequence[Mapping[str, Any]], device: str) -> str:
    """A line for each goal of the device: where the best of ours is nearest to it, or under it."""
    best: dict[tuple[int, str], tuple[Spread, str]] = {}
    for row in found:
        if row["code"] in OURS and "dense_over_this" in row:
            at, mine = (row["visual_tokens"], row["dtype"]), (Spread.read(row, "dense_over_this"), row["code"])
            best[at] = max(best.get(at, mine), mine)
    lines = []
    for (where, count), wanted in GOALS.items():
        asked = {at: mine for at, mine in best.items() if count in (None, at[0])}
        if where != device or not asked:
            continue
        (size, dtype), (least, code) = min(asked.items(), key=lambda item: item[1][0])
        state = "reached" if round(least.median, 2) >= wanted else "not reached"
        sizes = "every size" if count is None else f"m = q = {count}"
        lines.append(
            f"  {state:12}  prefix attention at least {wanted:.2f} times as fast as under a dense mask, {sizes}: "
            f"{least} at m = q = {size}, {dtype}, {code}"
        )
    return "\n".join(lines)


def _runs(count: int, dtype: torch.dtype, device: str) -> tuple[dict[str, Run], dict[str, str]]:
    generator = torch.Generator().manual_seed(0)
    query, key, value, upstream = (
        torch.randn(BATCH, heads, 2 * count, WIDTH, generator=generator).to(device, dtype)
        for heads in (HEADS, GROUPS, GROUPS, HEADS)
    )
    inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
    mask = dense_mask(2 * count, count, query.device)

    def dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)

    def repeated(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = (tensor.repeat_interleave(HEADS // GROUPS, 1) for tensor in (key, value))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    codes: dict[str, Any] = {"auto": partial(prefix_attention, prefix=count)}
    codes |= dict(zip(DENSE, (dense, repeated), strict=True))
    if device == "cuda":
        codes["flex"] = partial(prefix_attention, prefix=count, impl="flex")
    found: dict[str, Run] = {}
    failed: dict[str, str] = {}
    for name, code in codes.items():
        run = partial(_step, code, inputs, upstream)
        try:
            run()
        except Exception as error:
            failed[name] = reason(error)
        else:
            found[name] = run
    return found, failed


def _step(code: Any, inputs: Sequence[Tensor], upstream: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(code(*inputs), inputs, upstream)
