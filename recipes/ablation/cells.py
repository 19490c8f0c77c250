"""A cell of the grid and the files of its folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.ablation.grid import Variant
from recipes.ablation.schema import Ablation
from recipes.checks import Costs
from recipes.configuration import Tree, to_yaml
from recipes.files import replace_file, replace_json
from recipes.run import ENDED, checkpoint_path, read_status


@dataclass(frozen=True, eq=False)
class Cell:
    """A variant at a seed.

    Attributes:
        variant: point of the axes.
        seed: of model and data.
        folder: <results>/<variant>/seed-<k>.
        tree: complete configuration.
        costs: of its model.
        matched: path -> integer that parameter matching chose, None without matching.
    """

    variant: Variant
    seed: int
    folder: Path
    tree: Tree
    costs: Costs
    matched: dict[str, int] | None = None

    @property
    def name(self) -> str:
        """variant/seed-k."""
        return f"{self.variant.name}/seed-{self.seed}"

    @property
    def status(self) -> dict[str, Any]:
        """What the cell last said of itself."""
        return read_status(self.folder)

    @property
    def ended(self) -> bool:
        """Whether there is a result: finished or diverged."""
        return self.status.get("status") in ENDED

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to resume from."""
        return checkpoint_path(self.folder).exists()

    def write(self, ablation: Ablation, shared: bool) -> None:
        """Make the folder with the configuration and what the cell is; a cell that once ran beside others stays so."""
        self.folder.mkdir(parents=True, exist_ok=True)
        shared = shared or bool(read_cell(self.folder).get("shared"))
        replace_file(self.folder / "config.yaml", to_yaml(self.tree))
        replace_json(
            self.folder / "cell.json",
            {
                "ablation": ablation.name,
                "variant": self.variant.name,
                "axes": self.variant.axes,
                "seed": self.seed,
                "question": ablation.question,
                "baseline": ablation.baseline,
                "matched": self.matched,
                "shared": shared,
            },
        )


def read_cell(folder: Path) -> dict[str, Any]:
    """What a cell's folder says it is, empty where it is none."""
    try:
        return json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def cells_in(folder: Path) -> list[Path]:
    """Folders of cells in an ablation's results."""
    return sorted(path.parent for path in folder.glob("*/seed-*/cell.json"))
