"""TEDS and TEDS-S of HTML tables."""

from collections.abc import Sequence

from recipes.metrics.html_tables import normalise_table
from recipes.metrics.mean import Mean
from recipes.metrics.tables import table_similarity


class TEDS(Mean):
    """Mean similarity of tables by tree edit distance: 1 equal, 0 no table, below 0 where little can stay."""

    higher_is_better = True
    which = 0

    def update(self, predictions: Sequence[str], truths: Sequence[str]) -> None:
        """Count tables, `<table>...</table>` each; a prediction may be empty.

        Raises:
            ValueError: not as many predictions as truths.
        """
        if len(predictions) != len(truths):
            raise ValueError(f"every prediction needs its truth, got {len(predictions)} and {len(truths)}")
        for prediction, truth in zip(predictions, truths, strict=True):
            self.add(table_similarity(normalise_table(prediction), normalise_table(truth))[self.which])


class StructureTEDS(TEDS):
    """The same with the cells' contents left out."""

    which = 1
