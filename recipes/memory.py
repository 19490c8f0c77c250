"""Memory of this process: the most it held, and what the C library does with what is freed."""

import ctypes
import resource
import sys
from pathlib import Path

import torch


def keep_freed_memory() -> None:
    """Let glibc keep freed activations: a fresh buffer costs page faults at every step."""
    libc = _libc()
    if libc is not None:
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)


def return_freed_memory() -> None:
    """Let glibc give back what is freed: its aligned blocks are seldom used again, and its heap grows and grows."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


def forget_peak_memory(device: torch.device) -> None:
    """Count the peak from here on, so that it is the training's and not that of reading the corpus; Linux and CUDA."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    return_freed_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # elsewhere the peak stays the whole process's


def peak_memory_mb(device: torch.device) -> float:
    """Most memory held, MB: on the accelerator, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 2**10
    except (OSError, StopIteration):
        # bytes on macOS, KB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _libc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return None
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
