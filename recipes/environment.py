"""Where a run took place: commit, packages, hardware."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

# a diff beyond this is cut: the file is read by people
LONGEST_DIFF = 200_000


def environment() -> dict[str, Any]:
    """Describe commit and uncommitted changes, packages, hardware, threads and Python; None where unknown."""
    diff = _git("diff", "HEAD", "--", ":/", ":(top,exclude)results")  # results are no part of what ran
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if diff is None else bool(diff),
        "diff": diff if diff is None or len(diff) <= LONGEST_DIFF else diff[:LONGEST_DIFF] + "\n[cut]\n",
        "packages": _packages(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": {
            "cpu": _processor(),
            "cores": os.cpu_count(),
            "memory_mb": _memory(),
            "gpus": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())],
        },
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
    }


@cache
def _packages() -> dict[str, str]:
    return dict(sorted((str(part.name), part.version) for part in distributions()))


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=30, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.rstrip("\n") if done.returncode == 0 else None


def _processor() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (ValueError, OSError, AttributeError):
        return None
