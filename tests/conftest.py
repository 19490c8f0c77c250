"""Every test starts from the same seed; puts this folder on the path, for `helpers` and `oracles`.

Hypothesis draws the same examples in every run; `--hypothesis-profile default` looks for others.

Without a GPU Triton's kernels are interpreted, which is decided when they are defined: before anything imports them.
"""

import os
from importlib.util import find_spec

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on tiny operations wait for each other

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


if find_spec("hypothesis"):  # a GPU machine needs none
    from hypothesis import settings

    settings.register_profile("same", derandomize=True)
    settings.load_profile("same")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
