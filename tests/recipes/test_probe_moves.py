"""Content that moves: the image, the boxes and the way back agree; followers of content and of place are told apart."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from probe_cases import VIEWS, column_order, fresh, in_columns, in_disorder, planted

from encoders.views import Views
from recipes.probes.findings import findings, followed
from recipes.probes.measure import Prober, Settings, probe_all
from recipes.probes.moves import columns_of, exchange, moves_of, turn
from recipes.probes.pages import Block, ProbePage
from recipes.probes.summary import summarise
from recipes.probes.views import views_of

MOVES = ("columns exchanged", "turned by 90 degrees", "turned by 180 degrees")


def summary_of(vision, pages):
    prober = Prober(vision, VIEWS, Settings(changes=False, text_tokens=0))
    return summarise(probe_all(prober, [lambda page=page: page for page in pages]))


def coloured(boxes, size=(90, 60), **more) -> ProbePage:
    """A page with every box in a colour of its own."""
    image = Image.new("RGB", size, "white")
    for k, (left, top, right, bottom) in enumerate(boxes):
        ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill=(40 * k + 20, 100, 200 - 30 * k))
    return ProbePage("page", image, tuple(Block(box, k) for k, box in enumerate(boxes)), **more)


THREE = [(5, 4, 85, 10), (5, 15, 25, 35), (30, 15, 50, 55), (60, 20, 85, 55), (5, 40, 25, 55)]


def test_blocks_and_the_way_back_move_with_the_content():
    page = coloured(THREE)
    moves = moves_of(page)
    assert tuple(moved.name for moved in moves) == MOVES
    for moved in moves:
        pixels, old = np.asarray(moved.page.image), np.asarray(page.image)
        assert [block.order for block in moved.page.blocks] == [0, 1, 2, 3, 4]
        for block, before in zip(moved.page.blocks, page.blocks, strict=True):
            left, top, right, bottom = (round(value) for value in block.box)
            colour = old[round(before.box[1]), round(before.box[0])]
            assert (pixels[top:bottom, left:right] == colour).all()
            assert (right - left) * (bottom - top) == (before.box[2] - before.box[0]) * (before.box[3] - before.box[1])
        height, width = pixels.shape[:2]
        y, x = np.mgrid[:height, :width]
        back = moved.back(np.stack([x.ravel() + 0.5, y.ravel() + 0.5], -1))
        source = old[np.floor(back[:, 1]).astype(int), np.floor(back[:, 0]).astype(int)]
        assert (source.reshape(pixels.shape) == pixels).all()


def test_columns_keep_their_gutters_and_the_rest_stays():
    page = coloured(THREE)
    found = columns_of(page)
    assert found == [(5, 15, 25, 55), (30, 15, 50, 55), (60, 20, 85, 55)]
    moved = exchange(page, found)
    assert moved.page.blocks[0] == page.blocks[0]
    boxes = [block.box for block in moved.page.blocks]
    order = sorted(boxes[1:4])
    assert order == [boxes[3], boxes[2], boxes[1]]
    assert all(right[0] - left[2] >= 5 for left, right in itertools.pairwise(order))
    two = coloured([(10, 10, 40, 50), (50, 10, 80, 50)])
    there = exchange(two, columns_of(two)).page
    again = exchange(there, columns_of(there)).page
    assert not np.array_equal(there.image, two.image)
    assert np.array_equal(again.image, two.image)
    assert again.blocks == two.blocks


@pytest.mark.parametrize(
    "boxes",
    [
        [(5, 5, 85, 20), (5, 25, 85, 50)],  # one column
        [(5, 5, 70, 50), (80, 5, 85, 50)],  # numbers beside formulas
        [(5, 5, 50, 30), (40, 35, 85, 55), (5, 10, 85, 50)],  # nothing clear
    ],
)
def test_what_has_no_columns_has_none(boxes):
    assert columns_of(coloured(boxes)) == []
    assert [moved.name for moved in moves_of(coloured(boxes))] == list(MOVES[1:])


def test_known_columns_come_before_found_ones():
    page = coloured([(0, 0, 30, 60), (30, 0, 90, 60)], columns=((0, 0, 30, 60), (30, 0, 90, 60)))
    moved = moves_of(page)[0]
    assert [block.box for block in moved.page.blocks] == [(60, 0, 90, 60), (0, 0, 60, 60)]


def test_a_turn_is_pillows():
    page = coloured(THREE)
    assert np.array_equal(turn(page, 90).page.image, page.image.rotate(90, expand=True))
    assert np.array_equal(turn(page, 180).page.image, page.image.rotate(180))


@pytest.mark.parametrize("pages", [in_disorder(4), [in_columns()]], ids=["disorder", "columns"])
def test_a_reader_of_content_follows_it(pages):
    summary = summary_of(planted(True), pages)
    for name in MOVES:
        move = summary.moves[name]
        assert followed(move) == "content"
        assert move["content"].mean > 0.75
        assert move["followed"].mean > 0.95
        assert move["explained"].mean > 0.9
        assert move["difference"].p < 0.01
        assert move["content_alone"].mean >= move["place_alone"].mean - 0.01
    assert sum("the order follows the content" in line for line in findings("E", False, summary, ())) == 3


def test_a_reader_of_places_stays():
    summary = summary_of(planted(False, column_order()), [in_columns()])
    for name in MOVES:
        move = summary.moves[name]
        assert followed(move) == "place"
        assert move["place"].mean > 0.95
        assert move["stayed"].mean == pytest.approx(1, abs=1e-3)
        assert move["content_alone"].mean < 0.01
    assert summary.moves["turned by 90 degrees"]["place_alone"].mean > 0.95
    assert sum("the order stays with the place" in line for line in findings("E", False, summary, ())) == 3


def test_a_reader_backwards_is_followed_with_its_sign():
    summary = summary_of(planted(False, column_order()[::-1]), [in_columns()])
    assert followed(summary.moves[MOVES[0]], sign=-1) == "place"
    assert sum("the order stays with the place" in line for line in findings("E", False, summary, ())) == 3


def test_an_untrained_encoder_has_nothing_to_follow():
    summary = summary_of(fresh(1), [*in_disorder(2), in_columns()])
    told = findings("CausalFlowEncoder", False, summary, ())
    assert all("no order above chance" in line for line in told[1:])


def test_moves_without_blocks_compare_the_encoder_with_itself():
    pages = [replace(page, blocks=(), columns=((0, 0, 32, 64), (32, 0, 64, 64))) for page in in_disorder(2)]
    summary = summary_of(planted(True), pages)
    for name in MOVES:
        assert summary.moves[name]["content"].n == 0
        assert summary.moves[name]["followed"].mean > 0.95
    assert findings("E", False, summary, ())[1].startswith("Pages columns exchanged (n = 2): the encoder's own order")


def test_boxes_land_on_their_content_in_every_view():
    page = coloured([(10, 10, 30, 40), (70, 5, 105, 55)], (120, 60))
    views = Views(global_size=120, crop_size=48, max_crops=4)
    seen = views_of(page, views, crops=True)
    assert [view.number for view in seen] == [None, 0, 1]
    colours = {block.order: np.asarray(page.image)[round(block.box[1]), round(block.box[0])] for block in page.blocks}
    # 30 pixels of grey above
    assert [block.box for block in seen[0].blocks] == [(10, 40, 30, 70), (70, 35, 105, 85)]
    for view in seen:
        pixels = (view.pixels.permute(1, 2, 0).numpy() * 0.5 + 0.5) * 255
        for block in view.blocks:
            left, top, right, bottom = block.box
            inner = pixels[int(top) + 4 : int(bottom) - 4, int(left) + 4 : int(right) - 4]
            assert inner.size
            assert np.abs(inner - colours[block.order]).max() < 3
    # the crops are the left and the right half
    assert [[block.order for block in view.blocks] for view in seen[1:]] == [[0], [1]]
