"""Every test starts from the same seed; puts this folder on the path, for `helpers` and `oracles`.

Without a GPU Triton's kernels are interpreted, which is decided when they are defined: before anything imports them.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on tiny operations wait for each other

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
