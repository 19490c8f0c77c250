"""Metrics in a CSV file that survives kills and resumes."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from recipes.files import replace_file

HEADER = "step,metric,value"


class MetricsFile(Logger):
    """Append `step,metric,value` rows to `metrics.csv`; each call is one write, so a kill tears one line at most.

    Args:
        save_dir: folder of the file, made with the first row.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self._save_dir = str(save_dir)
        self._mended = False

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self._save_dir) / "metrics.csv"

    @property
    def name(self) -> str:
        """Nothing: the file's folder is the run."""
        return ""

    @property
    def version(self) -> str:
        """Nothing: the file's folder is the run."""
        return ""

    @property
    def save_dir(self) -> str:
        """Folder of the file."""
        return self._save_dir

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row for each metric.

        Args:
            metrics: names to values.
            step: finished optimizer steps.
        """
        self._mend()
        rows = "".join(f"{int(step or 0)},{name},{float(value)!r}\n" for name, value in metrics.items())
        with self.path.open("a", newline="") as file:
            file.write(rows)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Write nothing: the configuration has a file of its own."""

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Drop the rows after a step, and torn ones; the new file takes the old one's place whole or not at all."""
        if self.path.exists():
            kept = (f"{at},{name},{value}\n" for at, name, value in self._rows() if at <= step)
            replace_file(self.path, HEADER + "\n" + "".join(kept))
        self._mended = False

    def value(self, metric: str, step: int) -> float | None:
        """The last value of a metric at a step, or None."""
        found = None
        if self.path.exists():
            for at, name, value in self._rows():
                if (at, name) == (step, metric):
                    found = float(value)
        return found

    def _rows(self) -> Iterator[tuple[int, str, str]]:
        for line in self.path.read_text().splitlines(keepends=True):
            parts = line.removesuffix("\n").split(",")
            if line.endswith("\n") and len(parts) == 3 and parts[0].isdecimal():
                yield int(parts[0]), parts[1], parts[2]

    def _mend(self) -> None:
        """Make the file with its header, or cut a torn last line, before the first row of this process."""
        if self._mended:
            return
        if not self.path.exists() or not self.path.stat().st_size:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(HEADER + "\n")
        else:
            with self.path.open("rb+") as file:
                whole = file.read().rfind(b"\n") + 1
                file.truncate(whole)
                if not whole:
                    file.seek(0)
                    file.write(f"{HEADER}\n".encode())
                file.flush()
                os.fsync(file.fileno())
        self._mended = True
