"""Train mHC for a few steps on one or two processes of a machine.

`python -m tests.recipes.distributed_run FOLDER STRATEGY`; STRATEGY is single, ddp or fsdp2. Lightning starts the
second process from this one's command line.
"""

import os
import sys
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from recipes.callbacks import DivergenceGuard, RunRecord, SignalGain, checkpoint_defaults
from tests.recipes.training import corpus, model, trainer

STRATEGIES = {
    "single": lambda: {},
    "ddp": lambda: {"devices": 2, "strategy": DDPStrategy(process_group_backend="gloo")},
    "fsdp2": lambda: {
        "devices": 2,
        "strategy": ModelParallelStrategy(
            data_parallel_size=2,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend="gloo",
        ),
    },
}


def main(folder: Path, strategy: str) -> None:
    """Six steps, the probe and the files on; the corpus lies in the folder above."""
    torch.set_num_threads(1)
    checkpoint = ModelCheckpoint(**(checkpoint_defaults(folder) | {"every_n_train_steps": 3}))
    callbacks = [SignalGain(every_n_steps=3), DivergenceGuard(max_gain=100), RunRecord(), checkpoint]
    fit = trainer(folder, 6, callbacks=callbacks, gradient_clip_val=1.0, **STRATEGIES[strategy]())
    fit.fit(model("mhc"), corpus(folder.parent))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]), sys.argv[2])
