"""Edit distances of texts, formulas and reading orders as OmniDocBench takes them: the mean over pages."""

from collections.abc import Callable, Iterable, Sequence

from recipes.metrics.distance import edits, normalised_distance
from recipes.metrics.mean import Mean
from recipes.metrics.normalisation import normalise_formula, normalise_text


class EditDistance(Mean):
    """Mean over pages of Levenshtein / longer length, of texts without spaces and punctuation, in [0, 1].

    A page on which both texts are empty is not counted.
    """

    higher_is_better = False
    normalise: Callable[[str], str] = staticmethod(normalise_text)

    def update(self, predictions: Sequence[str | Sequence[str]], truths: Sequence[str | Sequence[str]]) -> None:
        """Count pages: a text each, or its blocks, of which edits and longer lengths are summed.

        Raises:
            ValueError: not as many predictions as truths, of pages or of a page's blocks.
        """
        for page in _pairs(predictions, truths):
            changed = length = 0
            for pair in _pairs(*([part] if isinstance(part, str) else part for part in page)):
                prediction, truth = map(self.normalise, pair)
                changed += edits(prediction, truth)
                length += max(len(prediction), len(truth))
            if length:
                self.add(changed / length)


class FormulaEditDistance(EditDistance):
    """The same of LaTeX, without delimiters, spaces, fonts and labels."""

    normalise = staticmethod(normalise_formula)


class ReadingOrderDistance(Mean):
    """Mean over pages of the Levenshtein distance between two orders of blocks / the longer one's length."""

    higher_is_better = False

    def update(self, predictions: Sequence[Sequence[float]], truths: Sequence[Sequence[float]]) -> None:
        """Count pages.

        Args:
            predictions: each page's blocks, by their place in the truth, in the order in which they were read; those
                that were not read are missing.
            truths: each page's places; they are sorted.

        Raises:
            ValueError: not as many predictions as truths.
        """
        for prediction, truth in _pairs(predictions, truths):
            if len(prediction) or len(truth):
                self.add(normalised_distance(list(prediction), sorted(truth)))


def _pairs(predictions: Sequence, truths: Sequence) -> Iterable[tuple]:
    if len(predictions) != len(truths):
        raise ValueError(f"every prediction needs its truth, got {len(predictions)} and {len(truths)}")
    return zip(predictions, truths, strict=True)
