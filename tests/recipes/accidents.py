"""What befalls a cell, once, at a step: for the tests of the driver, whose cells import this module."""

import os
import signal
import time
from pathlib import Path

from lightning.pytorch import Callback


class Accident(Callback):
    """At a step of one variant's cells: kill the process, raise, or press Ctrl-C on the driver; the first time only."""

    def __init__(self, variant: str, step: int, kind: str):
        self.variant, self.step, self.kind = variant, step, kind

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        folder = Path(trainer.default_root_dir)
        mark = folder / "accident"
        if folder.parent.name != self.variant or trainer.global_step != self.step or mark.exists():
            return
        mark.write_text(self.kind)
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "raise":
            raise RuntimeError("the roof fell in")
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(3)
