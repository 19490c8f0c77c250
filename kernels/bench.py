"""Time every operation forward and backward on a GPU, beside its peers: `python -m kernels.bench`.

A row is written to results/kernels/operations.csv as soon as it is measured; at the end come a table, the roofline
picture and the goals, reached or not. `--quick --device cpu` runs the same path on tiny sizes where there is no GPU, to
try the path and not the speed.
"""

import argparse
import sys
from pathlib import Path

import torch

from kernels.benchmark import goals, measure, picture, record
from kernels.benchmark.cases import OPERATIONS, PEERS
from kernels.benchmark.clock import Clock
from kernels.dispatch import Implementation
from kernels.registration import installed, interpreted


def main(given: list[str] | None = None) -> int:
    """Measure, write, report; 2 where there is nothing to measure on."""
    parser = argparse.ArgumentParser(prog="python -m kernels.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two sizes; on a CPU one tiny size")
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=OPERATIONS, metavar="NAME")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, metavar="NAME", help=", ".join(PEERS))
    parser.add_argument("--output", type=Path, help="folder (results/kernels; on a CPU a temporary one)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: with --quick alone")
    parser.add_argument("--seconds", type=float, default=220.0, help="after which peers are left out (220)")
    options = parser.parse_args(given)
    device = options.device
    if device == "cpu" and not options.quick:
        parser.error("--device cpu measures nothing of interest; it needs --quick")
    if device == "cuda" and not torch.cuda.is_available():
        print("kernels.bench: no NVIDIA GPU here; --quick --device cpu tries the path without one", file=sys.stderr)
        return 2
    if device == "cuda" and (interpreted() or not installed()):
        why = "TRITON_INTERPRET is set" if interpreted() else "Triton is not installed"
        print(f"kernels.bench: {why}, so the kernels cannot run on the GPU", file=sys.stderr)
        return 2
    output = record.folder(options.output, device)
    impl: Implementation = "triton" if device == "cuda" or interpreted() else "reference"
    clock = Clock(device, runs=20 if device == "cuda" else 2, seconds=0.25)
    rows = measure.measure(
        clock,
        impl,
        record.Record(output / "operations.csv", measure.COLUMNS),
        operations=options.operations,
        peers=options.peers,
        quick=options.quick,
        limit=options.seconds,
    )
    print(measure.table(rows))
    print(picture.draw(rows, output / "roofline.png"))
    print(goals.report(rows))
    print(f"written: {output / 'operations.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
