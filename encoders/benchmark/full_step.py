"""One optimizer step of the full model in bf16, on a GPU: tokens a second, utilisation, peak memory, time by part.

Measured one after the other, each alone on the GPU and on the same batch: the configuration's model with plain
residuals, the configuration as it is written, and transformers' model of the same sizes, whose residuals are plain. A
ratio is of medians; a matrix product beside each shows whether the GPU was as fast as before.
"""

import gc
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from encoders.benchmark.full_models import Trained, loss_of, ours, plain, theirs
from encoders.benchmark.rounds import PLACE, CannotMeasure, Settings
from encoders.benchmark.timeline import OTHER, Timeline
from encoders.ocr2 import OCR2
from encoders.views import ImageBatch, Views
from kernels.benchmark.clock import Clock
from mhc import Trunk, build, parameter_groups

FILE = "ocr2/full_step.csv"
PLAIN, WRITTEN, PEER = "plain residual", "as written", "transformers"
# the vision side's own parts, the token embedding, the rest of the decoder with its head; the rest is the loss and what
# joins the parts
PARTS = ("tokenizer", "encoder", "embedding", "decoder", "optimizer", OTHER)
COLUMNS = (
    "model", "code", "topologies", "parameters", "pages", "crops", "sequence", "tokens", "visual_tokens", "dtype",
    "optimizer", "loss", "step_ms", "step_ms_p10", "step_ms_p90", "rounds", "over_plain",
    *(f"{part}_ms" for part in PARTS), "tokens_per_s", "pages_per_s", "tflop_per_step", "tflop_per_s",
    "peak_tflop_per_s", "mfu_percent", "matmul_tflop_per_s", "percent_of_matmul", "peak_gib", "reserved_gib", "reason",
    *PLACE,
)  # fmt: skip
# dense bf16, TFLOP/s, of NVIDIA's data sheets; the longer name first
PEAKS = {"B200": 2250.0, "H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0}
A4_AT_144_DPI = (1191, 1684)
ROUNDS, DIVIDED = 10, 3
# over the plain residual's step: the configuration's at most, transformers' at least
COST, PEER_TIMES = 1.05, 1.5


def rows(settings: Settings) -> Iterator[dict[str, Any]]:
    """A row for each code: forward, backward and AdamW on pages of A4 at 144 dpi; what cannot run has a reason.

    Raises:
        CannotMeasure: no GPU, no such model, a sequence shorter than a page, or not enough memory for any of them.
    """
    if settings.device != "cuda":
        raise CannotMeasure("the full model's step needs an NVIDIA GPU of 80 GB or more: leave the part full out")
    yield from compared(settings, _network(settings))


def compared(settings: Settings, node: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a model; any device can run a small one, to try the path and not the speed.

    Raises:
        CannotMeasure: a sequence shorter than a page, or not enough memory for any of them.
    """
    base = plain(node)
    codes = {PLAIN: (ours, base), WRITTEN: (ours, node), PEER: (theirs, base)}
    if node == base:
        del codes[WRITTEN]
    size = settings.pages, settings.sequence
    flops = {code: step_flops(made, *size) for code, (_, made) in codes.items() if code != PEER}
    flops[PEER] = flops[PLAIN]  # the same function
    clock = Clock(settings.device, runs=max(3, min(settings.rounds, ROUNDS)), seconds=settings.seconds)
    tokens, images, known = _given(base, settings)
    taken: dict[str, float] = {}
    reasons: list[str] = []
    for code, (make, made) in codes.items():
        row = {"model": settings.config.stem, "code": code} | known
        try:
            row |= step_row(clock, partial(make, made), tokens, images)
        except torch.OutOfMemoryError as error:
            reasons.append(
                f"the step of {settings.pages} pages of {settings.sequence} tokens does not fit: take fewer --pages, "
                f"or set recompute in {settings.config} ({str(error).partition('.')[0]})"
            )
        except CannotMeasure as error:
            reasons.append(str(error))
        if "step_ms" in row:
            taken[code] = row["step_ms"]
            row |= _rates(row, flops[code] / 1e12, clock)
            row |= {"over_plain": taken[code] / taken[PLAIN]} if PLAIN in taken else {}
        else:
            row["reason"] = reasons[-1]
        gc.collect()
        if settings.device == "cuda":
            torch.cuda.empty_cache()
        yield row
    if not taken:
        raise CannotMeasure(reasons[0])


def line(row: Mapping[str, Any]) -> str:
    """One row, for the terminal."""
    if "step_ms" not in row:
        return f"{row['model']}, {row['code']}: {row['reason']}"
    over = f" ({row['over_plain']:.3f} of the plain residual's)" if "over_plain" in row else ""
    memory = f", {row['peak_gib']:.1f} GiB" if "peak_gib" in row else ""
    parts = ", ".join(f"{part} {row[f'{part}_ms']:.1f}" for part in PARTS if f"{part}_ms" in row)
    return (
        f"{row['model']}, {row['code']}, {row['parameters']:,} parameters, {row['tokens']} tokens: "
        f"{row['step_ms']:.0f} ms a step{over}, {row['tokens_per_s']:.0f} tokens/s, {row['tflop_per_s']:.0f} TFLOP/s"
        f"{memory}; in ms: {parts}"
    )


def goals(found: Sequence[Mapping[str, Any]], device: str) -> str:
    """Utilisation and memory of the configuration's step, what its topologies cost, and the ratio to the peer."""
    by_code = {row["code"]: row for row in found}
    base, peer = by_code[PLAIN], by_code[PEER]
    written = by_code.get(WRITTEN, base)
    share = f"{written['mfu_percent']:.1f} % MFU" if "mfu_percent" in written else "MFU unknown for this device"
    memory = f", {written['peak_gib']:.1f} GiB" if "peak_gib" in written else ""
    lines = [_goal("one optimizer step of the full model, as configured", [written], f"{share}{memory}", True)]
    if written is not base:
        over = written.get("over_plain", math.nan)
        goal = f"its topologies at most {COST:.2f} of the plain residual's step"
        lines.append(_goal(goal, [base, written], f"{over:.3f}", over <= COST))
    over = peer.get("over_plain", math.nan)
    goal = f"the plain residual's step at least {PEER_TIMES:.2f} times as fast as transformers'"
    lines.append(_goal(goal, [base, peer], f"{over:.2f} times", over >= PEER_TIMES))
    return "\n".join(lines)


def _goal(goal: str, needed: Sequence[Mapping[str, Any]], said: str, reached: bool) -> str:
    lacking = next((row["reason"] for row in needed if "reason" in row), None)
    state = "not measured" if lacking else "reached" if reached else "not reached"
    return f"  {state:12}  {goal}: {lacking or said}"


def step_row(clock: Clock, make: Callable[[], Trained], tokens: Tensor, images: ImageBatch) -> dict[str, Any]:
    """What one optimizer step takes: its time, that of its parts in steps of their own, and its memory.

    Raises:
        CannotMeasure: what `make` raises, or a loss that is not finite.
    """
    cuda = clock.device == "cuda"
    torch.manual_seed(0)
    with torch.device(clock.device):
        model, loss_on, parts = make()
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=1e-5, fused=True)
    losses: list[Tensor] = []

    def step(mark: Callable[[str], None]) -> None:
        loss = loss_on(tokens, images)
        loss.backward()
        mark("optimizer")
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())

    step(lambda _: None)  # the optimizer's state exists from here on
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    timing = clock.time(lambda _: step(lambda _: None))
    divided = []
    for _ in range(DIVIDED):
        with Timeline.on(clock.device, parts) as timeline:
            step(timeline.mark)
        divided.append(timeline.milliseconds())
    if not all(torch.isfinite(loss) for loss in losses):
        raise CannotMeasure(f"the full model's loss is not finite: {[float(loss) for loss in losses]}")
    row = {
        "topologies": ", ".join(topologies(model)), "loss": float(losses[-1]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()), "step_ms": timing.us / 1e3,
        "step_ms_p10": timing.p10 / 1e3, "step_ms_p90": timing.p90 / 1e3, "rounds": timing.runs,
    } | {f"{part}_ms": statistics.median(found[part] for found in divided) for part in divided[0]}  # fmt: skip
    if cuda:
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        row["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
    return row


def step_flops(node: Mapping[str, Any], pages: int, sequence: int) -> float:
    """Floating point operations of a step's matrix products; attention counts as if every token saw every other.

    They are counted on a copy without storage, and without recomputation: the model's operations, not what a step of it
    costs.
    """
    with torch.device("meta"):
        network: OCR2 = build(node)
        for module in network.modules():
            if isinstance(module, Trunk):
                module.recompute = None
        tokens, images = _batch(network, pages, sequence, torch.float32)
        with FlopCounterMode(display=False) as counter:
            loss_of(network, tokens, images).backward()
    return float(counter.get_total_flops())


def topologies(network: nn.Module) -> list[str]:
    """The kinds of residual topology by trunk: `decoder: ManifoldHyperConnection`, ...; of transformers' model none."""
    found = []
    for name, module in network.named_modules():
        if isinstance(module, Trunk):
            kinds = sorted({type(topology).__name__ for topology in module.topologies})
            found.append(f"{name.removesuffix('.trunk')}: {' and '.join(kinds)}")
    return found


def peak_tflop(gpu: str) -> float | None:
    """Of dense bf16 products by the data sheet, TFLOP/s; None for a GPU that `PEAKS` lacks."""
    return next((peak for name, peak in PEAKS.items() if name in gpu), None)


def _rates(row: Mapping[str, Any], tflop: float, clock: Clock) -> dict[str, float]:
    # of a product beside each step, which tells a GPU that slows down from a slow model
    seconds, matmul = row["step_ms"] / 1e3, clock.matmul_rate() / 1e12
    found = {
        "tokens_per_s": row["tokens"] / seconds, "pages_per_s": row["pages"] / seconds, "tflop_per_step": tflop,
        "tflop_per_s": tflop / seconds, "matmul_tflop_per_s": matmul,
        "percent_of_matmul": 100 * tflop / seconds / matmul,
    }  # fmt: skip
    peak = peak_tflop(torch.cuda.get_device_name()) if clock.device == "cuda" else None
    return found | ({} if peak is None else {"peak_tflop_per_s": peak, "mfu_percent": 100 * tflop / seconds / peak})


def _given(node: Mapping[str, Any], settings: Settings) -> tuple[Tensor, ImageBatch, dict[str, Any]]:
    """The batch, and the columns that say what it is."""
    with torch.device("meta"):
        network: OCR2 = build(node)
    torch.manual_seed(0)
    with torch.device(settings.device):
        tokens, images = _batch(network, settings.pages, settings.sequence, torch.bfloat16)
    return tokens, images, {
        "pages": settings.pages, "crops": sum(images.crop_counts), "sequence": settings.sequence,
        "tokens": tokens.numel(), "visual_tokens": sum(network.vision.lengths(images)), "dtype": "bf16",
        "optimizer": "AdamW, states in bf16",
    }  # fmt: skip


def _batch(network: OCR2, pages: int, sequence: int, dtype: torch.dtype) -> tuple[Tensor, ImageBatch]:
    """Rows of one page each on the default device: noise in the views, slots, then random text."""
    views = Views()
    crops = [columns * rows for columns, rows in [views.grid(*A4_AT_144_DPI)]] * pages
    images = ImageBatch(
        torch.randn(pages, 3, views.global_size, views.global_size, dtype=dtype),
        torch.randn(sum(crops), 3, views.crop_size, views.crop_size, dtype=dtype),
        tuple(crops),
    )
    slots = network.vision.lengths(images)[0]
    if sequence <= slots + 1:
        raise CannotMeasure(f"--sequence {sequence} leaves no text beside the {slots} visual tokens of a page")
    # text tokens stay below the special ones at the vocabulary's end
    tokens = torch.randint(3, min(network.image_token, network.decoder.vocabulary_size), (pages, sequence))
    tokens[:, 1 : 1 + slots] = network.image_token
    return tokens, images


def _network(settings: Settings) -> Mapping[str, Any]:
    try:
        import yaml
    except ImportError:
        raise CannotMeasure("the full model's YAML needs the package pyyaml: install it") from None
    try:
        read = yaml.safe_load(settings.config.read_text())
        return read["model"]["init_args"]["network"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise CannotMeasure(
            f"{settings.config} has no node model.init_args.network that can be read ({error!r}): name another file "
            "with --config"
        ) from None
