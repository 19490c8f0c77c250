"""Character Detection Matching of formulas."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from recipes.metrics.characters import compare_formulas
from recipes.metrics.formula_drawing import find_engine


class CDM(Metric):
    """Means over formulas, in [0, 1]: `cdm` (F1), `precision` and `recall` of the symbols, `exact_match` (ExpRate@CDM).

    A pair of empty formulas is not counted; one with a formula that TeX cannot draw, or not in time, is 0.

    Args:
        engine: pdflatex or xelatex; the first that is there by default.

    Raises:
        TeXError: there is no TeX, or not this one, or it lacks a package.
        ValueError: another engine.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    totals: Tensor
    count: Tensor

    def __init__(self, *, engine: str | None = None, **options: object) -> None:
        super().__init__(**options)
        self.engine = find_engine((engine,)) if engine else find_engine()
        self.add_state("totals", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[str], truths: Sequence[str]) -> None:
        """Count formulas, LaTeX each; a prediction may be empty.

        Raises:
            ValueError: not as many predictions as truths.
        """
        if len(predictions) != len(truths):
            raise ValueError(f"every prediction needs its truth, got {len(predictions)} and {len(truths)}")
        for found in compare_formulas([*zip(predictions, truths, strict=True)], self.engine):
            if found is not None:
                self.totals += self.totals.new_tensor([found.score, found.precision, found.recall, found.exact])
                self.count += 1

    def compute(self) -> dict[str, Tensor]:
        """The means; NaN where no formula was counted."""
        return dict(zip(("cdm", "precision", "recall", "exact_match"), self.totals / self.count, strict=True))
