"""What the cells of an ablation say: losses at an equal budget, their differences, what trained and what did not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipes.reports.cells import Ablation, Cell
from recipes.reports.format import significant
from recipes.reports.statistics import Difference, holm, paired

# step times of cells that cost the same lie within this ratio, or the machine had other work
STEADY = 1.5
MATCHED = 0.01  # parameters within this range count as the same
NORMAL = 1.96  # 97.5 % of the standard normal distribution lie below
BUDGETS = {"steps": "optimizer steps", "flops": "training FLOPs", "time": "seconds of training"}


@dataclass
class Analysis:
    """An ablation with what was computed from it; losses are {variant: {seed: nats}} at the budget."""

    ablation: Ablation
    at: str
    budget: float
    losses: dict[str, dict[int, float]]
    differences: list[Difference]
    notes: list[str]

    def untrained(self, variant: str) -> list[int]:
        """Seeds at which the finished variant did not leave the prior."""
        return [cell.seed for cell in self.ablation.of(variant, "finished") if cell.trained() is False]

    def values(self, variant: str, name: str, *statuses: str) -> list[float]:
        """A number of the variant's finished (or otherwise chosen) cells, where it was measured."""
        cells = self.ablation.of(variant, *(statuses or ("finished",)))
        return [value for cell in cells if not math.isnan(value := cell.value(name))]

    def accuracies(self, variant: str) -> list[float]:
        """Final token accuracies of the variant's finished cells, where it was measured."""
        return self.values(variant, "val_accuracy")

    def order_accuracies(self, variant: str) -> list[float]:
        """The same of the tokens that the order of the page decides."""
        return self.values(variant, "val_order_accuracy")

    @property
    def blind(self) -> float:
        """What these are on average without the order, at best; NaN where it is not known."""
        return self._of_all("blind_order_accuracy")

    @property
    def luck(self) -> float:
        """What one in forty readers without the order reaches on the held-out pages; NaN where it is not known.

        The accuracy's normal upper bound: all seeds are measured on the same tokens, which are a sample themselves.
        """
        share, tokens = self.blind, self._of_all("order_tokens")
        return share + NORMAL * math.sqrt(share * (1 - share) / tokens)

    @property
    def order_differences(self) -> list[Difference]:
        """Differences of order accuracies, in points, between the pairs whose losses are compared."""
        points: dict[str, dict[int, float]] = {}
        for cell in self.ablation.cells:
            if cell.status == "finished" and not math.isnan(share := cell.value("val_order_accuracy")):
                points.setdefault(cell.variant, {})[cell.seed] = 100 * share
        found = [paired(variant, reference, points) for variant, reference in _pairs(self.ablation)]
        return holm([difference for difference in found if difference.n])

    def _of_all(self, name: str) -> float:
        """What is the same in all finished cells; NaN where it is not."""
        known = {cell.value(name) for cell in self.ablation.cells if cell.status == "finished"}
        return known.pop() if len(known) == 1 else math.nan

    def gains(self, variant: str, name: str) -> list[float]:
        """A composite gain of the cells that ended by themselves: a diverged cell's counts to where it stopped."""
        return self.values(variant, name, "finished", "diverged")

    def measured(self, variant: str, name: str) -> list[float]:
        """A number of the cells as a report compares it: losses at the budget, gains of diverged cells, too."""
        if name == "val_loss":
            return list(self.losses.get(variant, {}).values())
        return self.gains(variant, name) if name.startswith("gain_") else self.values(variant, name)

    @property
    def mixes(self) -> bool:
        """Whether a topology mixes streams: some composite gain is not exactly 1."""
        names = [f"gain_{way}{end}" for way in ("forward", "backward") for end in ("", "_max")]
        return any(gain != 1 for v in self.ablation.variants for name in names for gain in self.gains(v, name))

    def median(self, variant: str, name: str) -> float:
        """Median over the variant's finished cells; what does not depend on the training, over diverged ones too."""
        fixed = name in ("params", "flops_per_token")
        values = self.values(variant, name, *(("finished", "diverged") if fixed else ()))
        return float(np.median(values)) if values else math.nan

    def difference(self, variant: str) -> Difference | None:
        """The variant's difference to the baseline."""
        baseline = self.ablation.baseline
        return next((d for d in self.differences if (d.variant, d.reference) == (variant, baseline)), None)

    def spread(self, name: str) -> float:
        """Relative range of a number's medians over the variants."""
        return self._spread(self.ablation.variants, name)

    def spread_along_first(self, name: str) -> float:
        """The largest such range among variants that differ on the first axis alone; what is matched is matched so."""
        first = next(iter(self.ablation.axes), None)
        groups: dict[tuple[str, ...], list[str]] = {}
        for variant in self.ablation.variants:
            others = tuple(level for axis, level in self.ablation.levels(variant).items() if axis != first)
            groups.setdefault(others, []).append(variant)
        return max((r for group in groups.values() if not math.isnan(r := self._spread(group, name))), default=math.nan)

    def _spread(self, variants: Sequence[str], name: str) -> float:
        values = [v for variant in variants if not math.isnan(v := self.median(variant, name))]
        return (max(values) - min(values)) / min(values) if values and min(values) > 0 else math.nan

    @property
    def shared(self) -> list[Cell]:
        """Cells whose times were taken beside other cells."""
        return [cell for cell in self.ablation.cells if cell.shared]

    @property
    def unsteady(self) -> float:
        """Largest ratio of the step times of finished cells that cost the same: above `STEADY` no times compare.

        Cells cost the same where their settings are, but for seed and learning rates.
        """
        times: dict[object, list[float]] = {}
        for cell in self.ablation.cells:
            if cell.status == "finished" and not math.isnan(step := cell.value("step_ms")):
                cost = frozenset(
                    (path, str(value))
                    for path, value in cell.settings.items()
                    if not path.endswith(".lr") and "learning_rate" not in path
                )
                times.setdefault(cost if cell.config else cell.variant, []).append(step)
        return max((max(group) / min(group) for group in times.values()), default=1.0)

    @property
    def budget_text(self) -> str:
        """The budget the losses were taken at, in words."""
        return f"{significant(self.budget, 4)} {BUDGETS[self.at]}"


def analyse(ablation: Ablation, at: str = "steps", limit: float = math.inf) -> Analysis:
    """Losses of the finished cells at the largest budget that all of them reached, and their paired differences.

    `limit` is a budget not to go beyond, where other ablations stopped earlier.
    """
    notes: list[str] = []
    curves: list[tuple[Cell, np.ndarray, np.ndarray]] = []
    for cell in ablation.cells:
        if cell.status != "finished":
            continue
        curve = cell.validation()
        budgets = np.array([cell.budget(at, step) for step in curve.index], float)
        if not len(curve) or not np.isfinite(budgets).all():
            lacks = "a validation loss" if not len(curve) else f"what is needed to count {BUDGETS[at]}"
            notes.append(f"{cell.name} finished without {lacks}, and is left out of the losses.")
        elif not math.isfinite(float(curve.iloc[-1])):
            notes.append(f"{cell.name} finished with a validation loss that is not finite, and is left out.")
        else:
            curves.append((cell, budgets, curve.to_numpy(float)))
    budget = min([limit, *(float(budgets[-1]) for _, budgets, _ in curves)]) if curves else math.nan
    losses: dict[str, dict[int, float]] = {}
    interpolated = 0
    for cell, budgets, values in curves:
        if math.isclose(budgets[-1], budget, rel_tol=1e-9):
            loss = float(values[-1])
        elif budgets[0] <= budget:
            loss, interpolated = float(np.interp(budget, budgets, values)), interpolated + 1
        else:
            notes.append(f"{cell.name} was first validated beyond {significant(budget, 4)} {BUDGETS[at]}: left out.")
            continue
        losses.setdefault(cell.variant, {})[cell.seed] = loss
    if interpolated:
        notes.append(
            f"Compared at {significant(budget, 4)} {BUDGETS[at]}, the most that every finished cell reached; "
            f"{interpolated} of {len(curves)} losses are interpolated linearly between validations."
        )
    if at == "time" and any(cell.shared for cell in ablation.cells):
        notes.append("The cells ran side by side, so equal time is not a fair budget here.")
    differences = holm([paired(variant, reference, losses) for variant, reference in _pairs(ablation)])
    return Analysis(ablation, at, budget, losses, differences, notes)


def _pairs(ablation: Ablation) -> list[tuple[str, str]]:
    """(variant, reference): the file's; or the baseline, with several axes what differs in one, at its baseline."""
    if ablation.comparisons:
        return list(ablation.comparisons)
    variants, base = ablation.variants, ablation.levels(ablation.baseline)
    if len(ablation.axes) < 2 or not base:
        return [(v, ablation.baseline) for v in variants if v != ablation.baseline and ablation.baseline in variants]
    by_levels = {tuple(sorted(ablation.levels(variant).items())): variant for variant in variants}
    pairs = []
    for axis in ablation.axes:
        for variant in variants:
            levels = ablation.levels(variant)
            reference = by_levels.get(tuple(sorted((levels | {axis: base.get(axis, "")}).items())))
            if reference not in (None, variant):
                pairs.append((variant, reference))
    return pairs
