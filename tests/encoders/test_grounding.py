"""Labels and boxes: written, read back, taken out, and what a model makes of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.grounding import Region, format_grounding, parse_grounding, strip_grounding

PAGE = (
    "<|ref|>title<|/ref|><|det|>[[0, 500, 999, 600]]<|/det|>\n# A title\n\n"
    "<|ref|>text<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>\nSome text.\n"
)

labels = st.text(st.characters(exclude_characters="<"), min_size=1).filter(str.strip).map(str.strip)
sides = st.integers(1, 20000)


@st.composite
def places(draw) -> list[tuple[str, list[tuple[int, int, int, int]]]]:
    def box() -> tuple[int, int, int, int]:
        (left, right), (top, bottom) = (sorted(draw(st.tuples(*[st.integers(0, 999)] * 2))) for _ in range(2))
        return left, top, right, bottom

    return [(draw(labels), [box() for _ in range(draw(st.integers(1, 3)))]) for _ in range(draw(st.integers(0, 4)))]


def pixels(box, width, height):
    return tuple(n / 999 * side for n, side in zip(box, (width, height) * 2, strict=True))


def test_the_example():
    found = parse_grounding(PAGE, 1998, 999)
    assert found.regions == [
        Region("title", ((0, 500, 1998, 600),)),
        Region("text", ((2, 2, 6, 4),)),
    ]
    assert found.malformed == []
    assert strip_grounding(PAGE) == "# A title\n\nSome text.\n"


@settings(max_examples=60, deadline=None)
@given(places(), sides, sides)
def test_places_survive_pixels(regions, width, height):
    written = "\n".join(
        f"<|ref|>{label}<|/ref|><|det|>[{', '.join(str(list(box)) for box in boxes)}]<|/det|>"
        for label, boxes in regions
    )
    found = parse_grounding(written, width, height)
    assert found.malformed == []
    assert [(r.label, len(r.boxes)) for r in found.regions] == [(label, len(boxes)) for label, boxes in regions]
    for region, (_, boxes) in zip(found.regions, regions, strict=True):
        for mine, box in zip(region.boxes, boxes, strict=True):
            assert mine == pytest.approx(pixels(box, width, height))
    assert format_grounding(found.regions, width, height) == written


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.data())
def test_pixels_survive_places_to_half_a_step(width, height, data):
    numbers = [sorted(data.draw(st.tuples(*[st.floats(0, side)] * 2))) for side in (width, height)]
    box = (numbers[0][0], numbers[1][0], numbers[0][1], numbers[1][1])
    written = format_grounding([("a", [box])], width, height)
    ((found,),) = [region.boxes for region in parse_grounding(written, width, height).regions]
    for mine, theirs, side in zip(found, box, (width, height) * 2, strict=True):
        assert abs(mine - theirs) <= side / 1998 * (1 + 1e-9)


@pytest.mark.parametrize(
    "piece",
    [
        "<|ref|>a<|/ref|><|det|>[[1, 2, 3]]<|/det|>",
        "<|ref|>a<|/ref|><|det|>[[1, 2, 3, 4, 5]]<|/det|>",
        "<|ref|>a<|/ref|><|det|>[[1, 2, 3, 1000]]<|/det|>",
        "<|ref|>a<|/ref|><|det|>[[-1, 2, 3, 4]]<|/det|>",
        "<|ref|>a<|/ref|><|det|>[[5, 2, 3, 4]]<|/det|>",
        "<|ref|>a<|/ref|><|det|>[[1, 5, 3, 4]]<|/det|>",
        "<|ref|>a<|/ref|><|det|>[[1.5, 2, 3, 4]]<|/det|>",
        "<|ref|>a<|/ref|><|det|>[]<|/det|>",
        "<|ref|>a<|/ref|><|det|><|/det|>",
        "<|ref|>a<|/ref|><|det|>[[1, 2, 3, 4], [1, 2]]<|/det|>",
        "<|ref|>a<|/ref|><|det|>__import__('os')<|/det|>",
        "<|ref|>a<|/ref|>",
        "<|ref|>a",
        "<|det|>[[1, 2, 3, 4]]<|/det|>",
        "<|ref|>a<|/ref|><|det|>[[1, 2, 3",
        "<|/det|>",
    ],
)
def test_malformed_regions_are_reported_and_the_rest_is_read(piece):
    for text in (PAGE + piece, piece + "\n" + PAGE):
        found = parse_grounding(text, 999, 999)
        assert [region.label for region in found.regions] == ["title", "text"]
        assert len(found.malformed) == 1
        assert found.malformed[0].startswith(piece)
        stripped = strip_grounding(text)
        assert "# A title\n\nSome text.\n" in stripped
        assert "<|" not in stripped


def test_nothing_is_left_of_a_region_that_breaks_off():
    for length in range(len("<|ref|>text<|/ref|><|det|>["), len("<|ref|>text<|/ref|><|det|>[[1, 2, 3, 4]]")):
        assert (
            strip_grounding("# A title\n<|ref|>text<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>"[: length + 10])
            == "# A title\n"
        )


def test_a_label_without_boxes_is_text():
    assert strip_grounding("see <|ref|>Figure 3<|/ref|> there") == "see Figure 3 there"
    assert strip_grounding("<image>\n<|grounding|>Convert the document to markdown.") == (
        "<image>\nConvert the document to markdown."
    )


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "[[1, 2, 3, 4]]", "a", "\n", "[[", "9"]))
)
def test_any_sequence_of_marks_is_read(parts):
    text = "".join(parts)
    found = parse_grounding(text, 10, 10)
    assert len(found.regions) + len(found.malformed) <= len(parts)
    assert "<|" not in strip_grounding(text)
    if any(part.startswith("<|") for part in parts):
        assert found.regions or found.malformed


@settings(max_examples=50, deadline=None)
@given(st.text().filter(lambda text: "<|" not in text))
def test_a_text_without_marks_stays(text):
    assert strip_grounding(text) == text
    assert parse_grounding(text, 1, 1) == ([], [])


def test_long_malformed_text_is_read_in_linear_time():
    text = "<|ref|>a" * 20000 + "<|det|>[[" * 20000
    assert parse_grounding(text, 10, 10).regions == []
    assert "<|" not in strip_grounding(text)


@pytest.mark.parametrize(
    ("regions", "size", "words"),
    [
        ([("a", [(0, 0, 11, 5)])], (10, 10), r"'a' has the box \(0, 0, 11, 5\).*10 x 10"),
        ([("a", [(5, 0, 4, 5)])], (10, 10), "in order"),
        ([("a", [(float("nan"), 0, 4, 5)])], (10, 10), "in order"),
        ([("", [(0, 0, 1, 1)])], (10, 10), "label"),
        ([("<|det|>", [(0, 0, 1, 1)])], (10, 10), "label"),
        ([("a", [])], (10, 10), "no boxes"),
        ([], (0, 10), "positive width and height"),
    ],
)
def test_what_cannot_be_written_is_named(regions, size, words):
    with pytest.raises(ValueError, match=words):
        format_grounding(regions, *size)
