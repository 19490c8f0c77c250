"""Labels and boxes in a page's text: `<|ref|>title<|/ref|><|det|>[[x1, y1, x2, y2]]<|/det|>`.

Boxes are integers from 0 to 999 over the page's width and height, whatever its size in pixels.
"""

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Box = tuple[float, float, float, float]

BINS = 999
_MARK = re.compile(r"<\|/?(?:ref|det|grounding)\|>")
_PAIR = re.compile(
    r"<\|ref\|>(?P<label>(?:(?!<\|).)*)<\|/ref\|>\s*<\|det\|>(?P<boxes>(?:(?!<\|).)*)<\|/det\|>", re.DOTALL
)
_BOX = r"\[\s*\d{1,3}(?:\s*,\s*\d{1,3}){3}\s*\]"
_BOXES = re.compile(rf"\s*\[\s*{_BOX}(?:\s*,\s*{_BOX})*\s*\]\s*")
# boxes whose end is missing: what a text that was cut off leaves
_CUT = re.compile(r"(?:<\|ref\|>(?:(?!<\|).)*<\|/ref\|>\s*)?<\|det\|>[\d\s,\[\].-]*(?:<\|/det\|>)?[ \t]*\n?", re.DOTALL)


@dataclass(frozen=True)
class Region:
    """A label and its boxes (left, top, right, bottom) in pixels."""

    label: str
    boxes: tuple[Box, ...]


class Grounding(NamedTuple):
    """What a text says about places.

    Attributes:
        regions: in the order of the text.
        malformed: the pieces that are meant as regions and are none, as they stand.
    """

    regions: list[Region]
    malformed: list[str]


def parse_grounding(text: str, width: float, height: float) -> Grounding:
    """Read the regions of a page of `width` x `height` pixels.

    A pixel is n / 999 * side. Text of a model may hold anything: numbers above 999, boxes turned inside out, marks
    without their end. Such a piece is given back as malformed, and the rest is read.

    Raises:
        ValueError: a page without size.
    """
    _require_page(width, height)
    found = Grounding([], [])
    rest, end = [], 0
    for pair in _PAIR.finditer(text):
        rest.append(text[end : pair.start()])
        end = pair.end()
        boxes = _boxes(pair["boxes"], width, height)
        if boxes:
            found.regions.append(Region(pair["label"].strip(), boxes))
        else:
            found.malformed.append(pair[0])
    for piece in (*rest, text[end:]):
        found.malformed.extend(_loose(piece))
    return found


def format_grounding(regions: Iterable[tuple[str, Sequence[Box]] | Region], width: float, height: float) -> str:
    """Write regions in pixels of a page of `width` x `height`, one a line, as `parse_grounding` reads them.

    n = floor(999 x / side + 1/2): the nearest of the 1000 places, the upper one of two that are equally near. Reading
    it back is off by at most side / 1998 pixels.

    Raises:
        ValueError: a page without size, a label that is empty or holds marks, a region without boxes, or a box that is
            off the page or turned inside out.
    """
    _require_page(width, height)
    lines = []
    for item in regions:
        label, boxes = (item.label, item.boxes) if isinstance(item, Region) else item
        if not label.strip() or "<|" in label:
            raise ValueError(f"a label must be a text without `<|`, got {label!r}")
        if not boxes:
            raise ValueError(f"{label!r} has no boxes; leave it out")
        written = ", ".join(_written(label, box, width, height) for box in boxes)
        lines.append(f"<|ref|>{label.strip()}<|/ref|><|det|>[{written}]<|/det|>")
    return "\n".join(lines)


def strip_grounding(text: str) -> str:
    """Take the labels and boxes out of a page's text: its Markdown.

    A label goes with its boxes and the end of its line. One that has no boxes at all stays, without its marks, for it
    may be text. Of a region that the text breaks off in, nothing is left. A text without marks is returned as it is.
    """
    text = re.sub(_PAIR.pattern + r"[ \t]*\n?", "", text, flags=re.DOTALL)
    return _MARK.sub("", _CUT.sub("", text))


def _boxes(text: str, width: float, height: float) -> tuple[Box, ...]:
    if not _BOXES.fullmatch(text):
        return ()
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    boxes = [numbers[start : start + 4] for start in range(0, len(numbers), 4)]
    if any(left > right or top > bottom for left, top, right, bottom in boxes):
        return ()
    sides = (width, height, width, height)
    return tuple(tuple(n * side / BINS for n, side in zip(box, sides, strict=True)) for box in boxes)  # type: ignore[misc]


def _loose(piece: str) -> list[str]:
    # one piece for each mark that opens something, or one for marks that only close
    marks = [mark for mark in _MARK.finditer(piece) if mark[0] != "<|grounding|>"]
    opening = [mark.start() for mark in marks if mark[0] == "<|ref|>"] or [mark.start() for mark in marks][:1]
    return [piece[start:end].strip()[:200] for start, end in itertools.pairwise([*opening, len(piece)])]


def _written(label: str, box: Box, width: float, height: float) -> str:
    left, top, right, bottom = box
    if not (0 <= left <= right <= width and 0 <= top <= bottom <= height):
        raise ValueError(
            f"{label!r} has the box {tuple(box)}; left, top, right, bottom must lie in order on a page of "
            f"{width:g} x {height:g} pixels"
        )
    sides = (width, height, width, height)
    places = [math.floor(BINS * x / side + 0.5) for x, side in zip(box, sides, strict=True)]
    return f"[{', '.join(map(str, places))}]"


def _require_page(width: float, height: float) -> None:
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise ValueError(f"a page must have a positive width and height, got {width} x {height}")
