"""What every part of the benchmark is told, and where it ran."""

import datetime
from dataclasses import dataclass
from typing import Any

import torch

from recipes.environment import environment

PLACE = ("device", "cpu", "cores", "threads", "torch", "commit", "dirty", "date")


@dataclass(frozen=True)
class Settings:
    """What every part of the benchmark is told.

    Attributes:
        steps: timed, of the language model's training.
        warm_up: steps before the timing begins, wherever steps are timed.
        loading_steps: timed, of each configuration whose data loading is looked at.
        rounds: of reading.
        pages: to evaluate.
    """

    steps: int = 30
    warm_up: int = 5
    loading_steps: int = 240
    rounds: int = 5
    pages: int = 1355


def machine() -> dict[str, Any]:
    """Processor, threads, torch and commit, as the columns `PLACE`."""
    found = environment()
    return {
        "device": "cpu",
        "cpu": found["hardware"]["cpu"],
        "cores": found["hardware"]["cores"],
        "threads": found["threads"],
        "torch": torch.__version__,
        "commit": found["commit"],
        "dirty": found["dirty"],
        "date": datetime.date.today().isoformat(),
    }
