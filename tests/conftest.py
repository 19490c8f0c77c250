"""Every test starts from the same seed; puts this folder on the path, for `helpers` and `oracles`."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on tiny operations wait for each other

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
