"""ablations/mhc_vs_hc.yaml with the Triton kernels, interpreted, has the losses of the reference."""

import csv
from pathlib import Path

import pytest
import torch

from kernels import registration
from recipes.ablation import grid
from recipes.ablation.schema import Ablation
from recipes.cli import CLI, Resolved
from recipes.configuration import read

SOURCE = read(Path(__file__).parents[2] / "ablations" / "mhc_vs_hc.yaml")
# three steps at a size that the interpreter takes seconds for
SMALL = [
    "--model.depth=2", "--model.width=16", "--data.sequence_length=12", "--data.batch_size=2", "--trainer.max_steps=3",
    "--trainer.val_check_interval=3", "--data.validation_batches=1", "--signal_gain.figures=false",
]  # fmt: skip


def losses(folder: Path, impl: str) -> dict[tuple[int, str], float]:
    ablation = Ablation.read(SOURCE)
    (variant,) = (variant for variant in grid.variants(ablation, SOURCE) if variant.name == "mhc")
    tree = variant.apply({key: node for key, node in SOURCE.tree.items() if key != "ablation"})
    options = [*SMALL, f"--model.topology.init_args.impl={impl}", f"--trainer.default_root_dir={folder}"]
    cli = CLI(Resolved(tree, options, where=impl).tree)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    rows = csv.DictReader((folder / "metrics.csv").open())
    kept = ("train/loss", "val/loss", "train/gradient_norm", "signal_gain/composite/backward")
    return {(int(row["step"]), row["metric"]): float(row["value"]) for row in rows if row["metric"] in kept}


@pytest.mark.skipif(not (registration.interpreted() or torch.cuda.is_available()), reason="Triton cannot run here")
def test_the_losses_are_the_references(tmp_path):
    fused, reference = (losses(tmp_path / impl, impl) for impl in ("triton", "reference"))
    assert {step for step, metric in reference if metric == "train/loss"} == {1, 2, 3}
    assert len({value for (_, metric), value in reference.items() if metric == "train/loss"}) == 3
    # fp32 sums in another order
    assert fused == pytest.approx(reference, rel=1e-4)
