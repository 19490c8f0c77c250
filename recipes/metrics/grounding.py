"""How well the boxes of a text lie."""

from collections.abc import Sequence

from encoders.grounding import Box, Region
from recipes.metrics.mean import Mean


def intersection_over_union(first: Box, second: Box) -> float:
    """Area of the intersection / area of the union of (left, top, right, bottom); 1 for equal boxes without area."""
    if tuple(first) == tuple(second):
        return 1.0
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    common = max(width, 0) * max(height, 0)
    union = _area(first) + _area(second) - common
    return common / union if union > 0 else 0.0


class GroundingIoU(Mean):
    """Mean intersection over union of boxes.

    The k-th box of a label in the prediction is compared with the k-th one of the same label in the truth; one that has
    no partner, on either side, counts 0. A page without boxes on both sides is not counted.
    """

    higher_is_better = True

    def update(self, predictions: Sequence[Sequence[Region]], truths: Sequence[Sequence[Region]]) -> None:
        """Count pages: their regions, as `encoders.grounding.parse_grounding` gives them, in one unit.

        Raises:
            ValueError: not as many predictions as truths.
        """
        if len(predictions) != len(truths):
            raise ValueError(f"every prediction needs its truth, got {len(predictions)} and {len(truths)}")
        for prediction, truth in zip(predictions, truths, strict=True):
            found, wanted = _by_label(prediction), _by_label(truth)
            for label in found.keys() | wanted.keys():
                one, other = found.get(label, []), wanted.get(label, [])
                overlap = sum(intersection_over_union(a, b) for a, b in zip(one, other, strict=False))
                self.add(overlap, max(len(one), len(other)))


def _by_label(regions: Sequence[Region]) -> dict[str, list[Box]]:
    boxes: dict[str, list[Box]] = {}
    for region in regions:
        boxes.setdefault(region.label, []).extend(region.boxes)
    return boxes


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)
