r"""Character Detection Matching: two formulas compared symbol by symbol as they are drawn (arXiv 2409.03643).

Symbols are assigned to one another at the smallest sum of 1 · token + 0.05 · position + 0.15 · order, where
    token = 0 for one name, 0.05 for two names of one drawing, 1 otherwise,
    position = mean |difference| of left, top, right, bottom as shares of each drawing's width and height,
    order = |i / n - j / m| of the i-th of n and the j-th of m symbols.
Pairs count whose token is below 1 and whose centres agree with many others' in a shift and a scale; CDM is the F1 of
these. The consistency's numbers are those of OmniDocBench's own tool; the paper's has 2, 5 and 20 for the first three.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from recipes.metrics.formula_drawing import Drawing, draw
from recipes.metrics.formula_parts import Formula, FormulaError
from recipes.metrics.formula_symbols import inside, read_formula

# pairs that a shift and a scale are found from, searches among what is left, pixels that a pair may be off
SAMPLES, SEARCHES, FAR = 3, 3, 25.0
TRIALS, SEED = 50, 42

_SAME = 0.05
_POSITION = 0.05
_ORDER = 0.15
_SIDE = re.compile(r"\\(?:left|right|middle)(?!.*(?:arrow|harpoon|[<>]))")
_SIZE = re.compile(r"\\[bB]igg?[lrm]?(?=[^A-Za-z])")
# names of one drawing, the first of which stands for all
_ALIKE = (
    (".", "\\dot", "\\Dot", "\\cdot", "\\cdotp", "\\ldotp"),
    ("|", "\\mid", "\\vert", "\\lvert", "\\rvert"),
    ("\\|", "\\Vert", "\\lVert", "\\rVert", "\\parallel"),
    ("\\to", "\\rightarrow"), ("\\gets", "\\leftarrow"), ("T", "\\top"), ("'", "\\prime"), ("*", "\\ast"),
    ("\\langle", "\\left<", "\\lang"), ("\\rangle", "\\right>", "\\rang"), ("\\{", "\\lbrace"), ("\\}", "\\rbrace"),
    ("[", "\\lbrack"), ("]", "\\rbrack"), ("/", "\\slash"), ("\\backslash", "\\setminus"),
    ("\\le", "\\leq"), ("\\ge", "\\geq"), ("\\ne", "\\neq", "\\not="), ("\\lnot", "\\neg"), (":", "\\colon"),
    ("\\dagger", "\\dag"), ("\\ddagger", "\\ddag"), ("<", "\\textless", "\\lt"), (">", "\\textgreater", "\\gt"),
    ("_", "\\_", "\\textunderscore"), ("\\land", "\\wedge"), ("\\lor", "\\vee"), ("\\in", "\\isin"),
)  # fmt: skip
_FIRST = {name: names[0] for names in _ALIKE for name in names}


@dataclass(frozen=True)
class Agreement:
    """Symbols that agree, out of those of the prediction and of the truth.

    Attributes:
        matched: symbols of both.
        predicted: of the prediction.
        true: of the truth.
        late: TeX took too long to draw one of the two, which has no symbols then.
    """

    matched: int
    predicted: int
    true: int
    late: bool = False

    @property
    def precision(self) -> float:
        """Share of the prediction's symbols."""
        return self.matched / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Share of the truth's symbols."""
        return self.matched / self.true if self.true else 0.0

    @property
    def score(self) -> float:
        """CDM, the harmonic mean of the two; 0 where either formula could not be drawn."""
        return 2 * self.matched / (self.predicted + self.true) if self.matched else 0.0

    @property
    def exact(self) -> bool:
        """Whether all symbols agree."""
        return self.matched == self.predicted == self.true > 0


def compare_formulas(pairs: Sequence[tuple[str, str]], engine: str) -> list[Agreement | None]:
    """Agreement of each prediction with its truth, LaTeX both; None where both are empty.

    Args:
        pairs: predictions and truths; one that TeX cannot draw has no symbols.
        engine: of `formula_drawing.find_engine`.
    """
    formulas = {latex: read for pair in pairs for latex in pair if (read := _read(latex)) is not None}
    drawings = dict(zip(formulas, draw([*formulas.values()], engine), strict=True))
    return [
        agree(drawings.get(prediction), drawings.get(truth)) if inside(prediction) or inside(truth) else None
        for prediction, truth in pairs
    ]


def agree(prediction: Drawing | None, truth: Drawing | None) -> Agreement:
    """Compare two drawings, None for a formula that has none."""
    predicted, true = (len(drawing.names) if drawing else 0 for drawing in (prediction, truth))
    if prediction is None or truth is None or not predicted or not true:
        return Agreement(0, predicted, true, any(drawing.late for drawing in (prediction, truth) if drawing))
    tokens = _token_cost(truth.names, prediction.names)
    cost = tokens + _POSITION * _position_cost(truth, prediction) + _ORDER * _order_cost(true, predicted)
    rows, columns = linear_sum_assignment(cost)
    placed = consistent(_centres(truth)[rows], _centres(prediction)[columns])
    return Agreement(int((placed & (tokens[rows, columns] < 1)).sum()), predicted, true)


def common_name(name: str) -> str:
    r"""One name for what is drawn alike: `\left(`, `\big(` and `(`, `\leq` and `\le`, `\varphi` and `\phi`."""
    name = _SIZE.sub("", _SIDE.sub("", name) or name)
    name = _FIRST.get(name, name)
    return re.sub(r"^\\(?:wide|var)(?=[A-Za-z])", r"\\", name)


def consistent(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Which pairs of centres [n, 2] lie where a shift and a scale of many pairs puts them.

    The largest set that one shift and scale explains is searched for, then the next among the others, so that each line
    of a formula may have moved by itself. Pairs too few to search among agree.
    """
    kept = np.full(len(truth), len(truth) <= SAMPLES)
    for _ in range(SEARCHES):
        left = np.flatnonzero(~kept)
        if len(left) <= SAMPLES:
            break
        found = _largest(truth[left], prediction[left])
        if not found.any():
            break
        kept[left[found]] = True
    return kept


def _largest(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """RANSAC: of some samples' shifts and scales, the pairs that the best explains."""
    generator = np.random.default_rng(SEED)
    best, score = np.zeros(len(truth), bool), (0, 0.0)
    middle = truth.mean(0)
    for _ in range(TRIALS):
        sample = generator.choice(len(truth), SAMPLES, replace=False)
        shift, scale = _fit(truth[sample], prediction[sample])
        # the scale is around the middle of all pairs, not of the sample: so does the published tool
        off = np.linalg.norm(scale * (truth - middle) + middle + shift - prediction, axis=1)
        near = off < FAR
        found = int(near.sum()), -float(off @ off)
        if found > score or not best.any():
            best, score = near, found
        if near.all():
            break
    return best


def _fit(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, float]:
    """Shift of the middles, and ratio of the mean distances to them."""
    middles = truth.mean(0), prediction.mean(0)
    spread, wanted = (
        np.linalg.norm(points - middle, axis=1).mean()
        for points, middle in zip((truth, prediction), middles, strict=True)
    )
    return middles[1] - middles[0], wanted / (spread + 1e-10)


def _token_cost(truth: Sequence[str], prediction: Sequence[str]) -> np.ndarray:
    same = np.array(truth)[:, None] == np.array(prediction)
    alike = np.array([*map(common_name, truth)])[:, None] == np.array([*map(common_name, prediction)])
    return np.where(same, 0, np.where(alike, _SAME, 1))


def _position_cost(truth: Drawing, prediction: Drawing) -> np.ndarray:
    shares = (drawing.boxes / np.tile(drawing.size, 2) for drawing in (truth, prediction))
    return cdist(*shares, "cityblock") / 4


def _order_cost(true: int, predicted: int) -> np.ndarray:
    return np.abs(np.subtract.outer(np.arange(true) / true, np.arange(predicted) / predicted))


def _centres(drawing: Drawing) -> np.ndarray:
    return (drawing.boxes[:, :2] + drawing.boxes[:, 2:]) / 2


def _read(latex: str) -> Formula | None:
    if not inside(latex):
        return None
    try:
        return read_formula(latex)
    except FormulaError:
        return None
