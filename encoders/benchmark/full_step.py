"""One optimizer step of the full model in bf16, on a GPU: tokens a second, utilisation, peak memory."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from encoders.benchmark.rounds import PLACE, CannotMeasure, Settings
from encoders.ocr2 import OCR2
from encoders.views import ImageBatch, Views
from kernels.benchmark.clock import Clock
from mhc import Trunk, build, parameter_groups

FILE = "ocr2/full_step.csv"
COLUMNS = (
    "model", "topologies", "parameters", "pages", "crops", "sequence", "tokens", "visual_tokens", "dtype", "optimizer",
    "loss", "step_ms", "step_ms_p10", "step_ms_p90", "rounds", "tokens_per_s", "pages_per_s", "tflop_per_step",
    "tflop_per_s", "peak_tflop_per_s", "mfu_percent", "matmul_tflop_per_s", "percent_of_matmul", "peak_gib",
    "reserved_gib", *PLACE,
)  # fmt: skip
# dense bf16, TFLOP/s, of NVIDIA's data sheets; the longer name first
PEAKS = {"B200": 2250.0, "H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0}
A4_AT_144_DPI = (1191, 1684)
ROUNDS = 10


def rows(settings: Settings) -> Iterator[dict[str, Any]]:
    """One row: forward, backward and AdamW on pages of A4 at 144 dpi.

    Raises:
        CannotMeasure: no GPU, no such model, a sequence shorter than a page, or not enough memory.
    """
    if settings.device != "cuda":
        raise CannotMeasure("the full model's step needs an NVIDIA GPU of 80 GB or more: leave the part full out")
    node = _network(settings)
    try:
        yield step_row(settings, node)
    except torch.OutOfMemoryError as error:
        raise CannotMeasure(
            f"the step of {settings.pages} pages of {settings.sequence} tokens does not fit: take fewer --pages, or "
            f"set recompute in {settings.config} ({str(error).partition('.')[0]})"
        ) from None


def line(row: Mapping[str, Any]) -> str:
    """One row, for the terminal."""
    return (
        f"{row['model']}, {row['parameters']:,} parameters, {row['tokens']} tokens: {row['step_ms']:.0f} ms a step, "
        f"{row['tokens_per_s']:.0f} tokens/s, {row['tflop_per_s']:.0f} TFLOP/s, {row['peak_gib']:.1f} GiB"
    )


def goals(found: Sequence[Mapping[str, Any]], device: str) -> str:
    """That the step ran, and at what utilisation; no number was set."""
    share = f"{found[0]['mfu_percent']:.1f} % MFU" if "mfu_percent" in found[0] else "MFU unknown for this GPU"
    return f"  {'reached':12}  one optimizer step of the full model: {share}, {found[0]['peak_gib']:.1f} GiB"


def step_row(settings: Settings, node: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a model; any device can run a small one, to try the path and not the speed.

    Raises:
        CannotMeasure: a sequence shorter than a page, or a loss that is not finite.
    """
    cuda = settings.device == "cuda"
    clock = Clock(settings.device, runs=max(3, min(settings.rounds, ROUNDS)), seconds=settings.seconds)
    matmul = clock.matmul_rate() / 1e12
    tflop = step_flops(node, settings.pages, settings.sequence) / 1e12
    torch.manual_seed(0)
    with torch.device(settings.device):
        network: OCR2 = build(node).to(torch.bfloat16).train()
        tokens, images = _batch(network, settings.pages, settings.sequence, torch.bfloat16)
    optimizer = torch.optim.AdamW(parameter_groups(network), lr=1e-5, fused=True)
    losses: list[Tensor] = []

    def step(_: Any) -> None:
        loss = loss_of(network, tokens, images)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())

    step(None)  # the optimizer's state exists from here on
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    timing = clock.time(step)
    if not all(torch.isfinite(loss) for loss in losses):
        raise CannotMeasure(f"the full model's loss is not finite: {[float(loss) for loss in losses]}")
    seconds, count = timing.us / 1e6, tokens.numel()
    row = {
        "model": settings.config.stem, "topologies": ", ".join(topologies(network)),
        "parameters": sum(parameter.numel() for parameter in network.parameters()), "pages": settings.pages,
        "crops": sum(images.crop_counts), "sequence": settings.sequence, "tokens": count,
        "visual_tokens": sum(network.vision.lengths(images)), "dtype": "bf16", "optimizer": "AdamW, states in bf16",
        "loss": float(losses[-1]), "step_ms": 1e3 * seconds, "step_ms_p10": timing.p10 / 1e3,
        "step_ms_p90": timing.p90 / 1e3, "rounds": timing.runs, "tokens_per_s": count / seconds,
        "pages_per_s": settings.pages / seconds, "tflop_per_step": tflop, "tflop_per_s": tflop / seconds,
        "matmul_tflop_per_s": matmul, "percent_of_matmul": 100 * tflop / seconds / matmul,
    }  # fmt: skip
    if not cuda:
        return row
    row |= {"peak_gib": torch.cuda.max_memory_allocated() / 2**30}
    row |= {"reserved_gib": torch.cuda.max_memory_reserved() / 2**30}
    peak = peak_tflop(torch.cuda.get_device_name())
    return row | ({} if peak is None else {"peak_tflop_per_s": peak, "mfu_percent": 100 * tflop / seconds / peak})


def loss_of(network: OCR2, tokens: Tensor, images: ImageBatch) -> Tensor:
    """Cross-entropy of the tokens that follow, in nats; image slots are not asked for."""
    labels = tokens.masked_fill(tokens == network.image_token, -100)
    return F.cross_entropy(network(tokens, images)[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())


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


def topologies(network: OCR2) -> list[str]:
    """The kinds of residual topology by trunk: `decoder: ManifoldHyperConnection`, ..."""
    found = []
    for name, module in network.named_modules():
        if isinstance(module, Trunk):
            kinds = sorted({type(topology).__name__ for topology in module.topologies})
            found.append(f"{name.removesuffix('.trunk')}: {' and '.join(kinds)}")
    return found


def peak_tflop(gpu: str) -> float | None:
    """Of dense bf16 products by the data sheet, TFLOP/s; None for a GPU that `PEAKS` lacks."""
    return next((peak for name, peak in PEAKS.items() if name in gpu), None)


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
