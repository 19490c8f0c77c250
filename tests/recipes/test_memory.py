"""The peak of a run is that of its training."""

import sys

import pytest
import torch

from recipes.memory import forget_peak_memory, peak_memory_mb


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process forget its peak")
def test_what_was_freed_before_does_not_count():
    cpu = torch.device("cpu")
    large = torch.ones(64 * 2**20)
    with_large = peak_memory_mb(cpu)
    del large
    forget_peak_memory(cpu)
    without = peak_memory_mb(cpu)
    assert without < with_large - 200
    smaller = torch.ones(32 * 2**20)
    assert without + 100 < peak_memory_mb(cpu) < with_large
    del smaller
