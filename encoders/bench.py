"""Time the vision encoder's attention and the whole model's training step: `python -m encoders.bench`.

| part | what | written to |
|---|---|---|
| attention | prefix attention against the dense mask | bench/prefix_attention_DEVICE.csv |
| training | a tiny whole model's step against transformers' on the same weights | bench/ocr2_training_step_DEVICE.csv |
| full | a step of the model of ablations/ocr2_full.yaml, of its plain form and of transformers' | ocr2/full_step.csv |

Files stand under results/, DEVICE is cpu or cuda. What is compared takes turns in one process, and a ratio is of
times in the same round; but the full models, which need a GPU, run one after the other, for it holds only one.
"""

import argparse
import sys
from pathlib import Path

import torch

from encoders.benchmark import attention, full_step, training_step
from encoders.benchmark.rounds import CannotMeasure, Settings, machine
from kernels.benchmark.record import Record

PARTS = {"attention": attention, "training": training_step, "full": full_step}


def main(given: list[str] | None = None) -> int:
    """Measure, write, report; 2 where a part that was asked for cannot run here."""
    parser = argparse.ArgumentParser(prog="python -m encoders.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, metavar="PART", help="attention, training, full")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="a GPU where there is one")
    parser.add_argument("--rounds", type=int, default=30, help="the most rounds of a comparison (30)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a comparison, after which rounds end (60)")
    parser.add_argument("--config", type=Path, default=Settings.config, help="of the full model")
    parser.add_argument("--pages", type=int, default=Settings.pages, help="in the full model's step")
    parser.add_argument("--sequence", type=int, default=Settings.sequence, help="tokens of each page in that step")
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder (results)")
    options = parser.parse_args(given)
    if options.rounds < 3 or options.pages < 1:
        parser.error("--rounds must be at least 3 and --pages at least 1")
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        print("encoders.bench: no NVIDIA GPU here; --device cpu measures what needs none", file=sys.stderr)
        return 2
    # without a GPU the full model runs where it is asked for, to say what it needs
    parts = options.parts or [name for name in PARTS if name != "full" or device == "cuda"]
    settings = Settings(device, options.rounds, options.seconds, options.config, options.pages, options.sequence)
    where, verdicts, code = machine(device), [], 0
    for part in (PARTS[name] for name in parts):
        record = Record(options.output / part.FILE.format(device=device), part.COLUMNS)
        try:
            for row in part.rows(settings):
                record.add(row | where)
                print(part.line(row), flush=True)
        except CannotMeasure as error:
            print(f"encoders.bench: {error}", file=sys.stderr)
            code = 2
            continue
        verdicts.append(part.goals(record.rows, device))
        print(f"written: {record.path}")
    print("\n".join(["goals:", *verdicts] if verdicts else ["goals: nothing was measured"]))
    return code


if __name__ == "__main__":
    sys.exit(main())
