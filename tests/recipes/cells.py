"""Folders of cells with chosen numbers, for tests of what reads them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

YAML = """# Does the manifold constraint hold the signal gain where HC lets it grow?
# python -m recipes.fit --config ablations/mhc_vs_hc.yaml
ablation:
  seeds: [0, 1, 2]
  axes:
    topology: {residual: {}, hc: {}, mhc: {}}
"""


def write_plan(folder: Path, text: str = YAML) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ablation.yaml").write_text(text)
    return folder


def write_cell(
    folder: Path,
    variant: str,
    seed: int,
    *,
    loss: float = 2.5,
    gain: float = 1.0,
    backward: float = 1.0,
    status: str = "finished",
    steps: int = 200,
    total: int = 200,
    axes: Mapping[str, str] | None = None,
    depth: int = 24,
    validate_every: int = 50,
    vocabulary: int | None = 256,
    record: Mapping[str, Any] | None = None,
    shared: bool = False,
    metrics: bool = True,
    matched: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
) -> Path:
    """A cell whose losses fall from ln(256) to `loss`, and whose composite gain grows to `gain` geometrically."""
    cell = folder / variant / f"seed-{seed}"
    cell.mkdir(parents=True, exist_ok=True)
    identity = {
        "ablation": folder.name, "variant": variant, "axes": dict(axes or {"topology": variant}), "seed": seed,
        "question": "From the cell?", "matched": matched, "shared": shared,
    }  # fmt: skip
    (cell / "cell.json").write_text(json.dumps(identity))
    model: dict[str, Any] = {
        "class_path": "recipes.modules.LanguageModel",
        "init_args": {"width": 64, "parts": variant},
    }
    if vocabulary:
        model["init_args"]["vocabulary_size"] = vocabulary
    (cell / "config.yaml").write_text(yaml.safe_dump({"seed_everything": seed, "model": model, "data": {"path": None}}))
    about = {
        "commit": "0123456789abcdef", "diff": "", "packages": {"torch": "2.13.0", "lightning": "2.6.6"},
        "hardware": {"cpu": "two cores", "gpu": None, "threads": 2}, "python": "3.11.7",
    }  # fmt: skip
    (cell / "environment.json").write_text(json.dumps(about | dict(environment or {})))
    ended = {
        "val_loss": loss, "params": 500_000, "flops_per_token": 3.1e6, "tokens": steps * 1024, "tokens_per_step": 1024,
        "step_ms": 80.0, "step_ms_p10": 76.0, "step_ms_p90": 90.0, "seconds": steps * 0.08 + 3, "tokens_per_s": 12800.0,
        "peak_memory_mb": 700.0, "gain_forward": gain, "gain_backward": backward, "gain_forward_max": gain * 1.1,
        "gain_backward_max": backward * 1.1, "resumed_at": [],
    }  # fmt: skip
    state = {"status": status, "step": steps, "steps": total, "pid": 1, "updated": "2026-01-02T03:04:05"}
    state |= ended if status in ("finished", "diverged") else {}
    (cell / "status.json").write_text(json.dumps(state | dict(record or {})))
    if metrics:
        (cell / "metrics.csv").write_text(
            "step,metric,value\n" + "".join(_rows(seed, loss, gain, backward, steps, total, depth, validate_every))
        )
    return cell


def _rows(seed: int, loss: float, gain: float, backward: float, steps: int, total: int, depth: int, every: int):
    noise = np.random.default_rng(seed)
    start = math.log(256)
    fall = lambda step: loss + (start - loss) * math.exp(-8 * step / total)  # noqa: E731
    for step in range(1, steps + 1):
        yield f"{step},train/loss,{fall(step) + 0.05 * noise.normal()}\n"
        if step % every == 0:
            yield f"{step},val/loss,{loss if step == steps else fall(step)}\n"
        if step % 10 == 0:
            for name, final in (("forward", gain), ("backward", backward)):
                now = final ** (step / steps)
                yield f"{step},signal_gain/composite/{name},{now}\n"
                yield f"{step},signal_gain/composite/{name}_max,{now * 1.2}\n"
                for k in range(depth):
                    yield f"{step},signal_gain/depth_{k:02d}/{name},{now ** ((k + 1) / depth)}\n"


def write_ablation(folder: Path, seeds: int = 3, **changes: Any) -> Path:
    """Residual, HC and mHC at `seeds` seeds, with losses and gains like a real run's."""
    write_plan(folder)
    for seed in range(seeds):
        wobble = (-0.02, 0.03, 0.0, 0.015)[seed]
        write_cell(folder, "residual", seed, **({"loss": 2.50 + wobble} | changes))
        hc = {"loss": 2.46 + wobble + 0.01 * seed, "gain": 18.0 + 4 * seed, "backward": 12.0 + seed}
        slow = {"step_ms": 190.0 + seed, "tokens_per_s": 5400.0, "peak_memory_mb": 900.0, "flops_per_token": 3.3e6}
        write_cell(folder, "hc", seed, **(hc | {"record": slow} | changes))
        mhc = {"loss": 2.48 + wobble - 0.004 * seed, "gain": 1.0, "backward": 1.03 + 0.01 * seed}
        slow = {"step_ms": 200.0 - seed, "tokens_per_s": 5100.0, "peak_memory_mb": 930.0, "flops_per_token": 3.4e6}
        write_cell(folder, "mhc", seed, **(mhc | {"record": slow} | changes))
    return folder
