"""What data modules know of their pages agrees with what is asked of the model."""

import numpy as np
import pytest
import torch
from PIL import Image

from encoders.views import Views
from recipes.data.glyph_pages import FIRST_GLYPH, GlyphPages
from recipes.data.glyphs import GlyphTask, RankedColumns, ScatteredDigits
from recipes.data.synthetic_pages import SyntheticPages
from recipes.documents.options import Contents
from recipes.probes.moves import moves_of
from recipes.probes.pages import Block, ProbePage
from recipes.probes.truth import probe_pages
from recipes.probes.views import views_of


@pytest.mark.parametrize(
    "task",
    [
        ScatteredDigits(rows=4, digits=7, distractors=4),
        RankedColumns(rows=5, columns=4, digits=2),
        RankedColumns(rows=4, columns=3, gaps=True),
    ],
)
def test_glyphs_in_their_order_are_the_answer(task: GlyphTask):
    data = GlyphPages(task, page_tokens=1, validation_pages=3)
    pages, views = probe_pages(data, 5)
    batch = data.probe_batch(5)
    assert views == data.views
    for page, pixels, labels in zip(pages, batch.pages, batch.labels, strict=True):
        answer = "".join(task.alphabet[token - FIRST_GLYPH] for token in labels[labels >= 0].tolist()[:-1])
        assert "".join(block.text for block in page.ordered) == answer
        # light noise that is brighter than white is cut
        seen = views_of(page, views)[0].pixels
        assert float((seen - pixels.clamp(-1, 1)).abs().max()) <= 1 / 255 + 1e-6
        grey = np.asarray(page.image.convert("L"), dtype=float)
        for block in page.blocks:
            left, top, right, bottom = (int(value) for value in block.box)
            assert grey[top:bottom, left:right].min() < 100


def test_columns_of_glyphs_stay_on_the_grid_of_cells():
    data = GlyphPages(RankedColumns(rows=4, columns=3), glyph=12, page_tokens=1)
    page = probe_pages(data, 1)[0][0]
    moved = moves_of(page)[0]
    assert moved.name == "columns exchanged"
    old, new = np.asarray(page.image), np.asarray(moved.page.image)
    for column in range(4):
        assert np.array_equal(new[:, 12 * column : 12 * column + 12], old[:, 36 - 12 * column : 48 - 12 * column])
    for block, before in zip(moved.page.blocks, page.blocks, strict=True):
        assert block.box[0] == 36 - before.box[0]


def test_made_up_pages_have_the_blocks_of_their_records(tmp_path):
    (tmp_path / "words.txt").write_text("plain words stand here in a row, and some of them are short. " * 40)
    views = {"global_size": 96, "crop_size": 96, "max_crops": 0}
    contents = Contents(text_size=9.0, min_columns=2, max_columns=2, title=0, running=1)
    data = SyntheticPages(
        2, width=200, height=240, contents=contents, path=str(tmp_path / "words.txt"), cache=str(tmp_path),
        views=Views(**views), sequence_length=300, batch_size=1, validation_batches=3,
    )  # fmt: skip
    data.prepare_data()
    pages, found = probe_pages(data, 3)
    assert found is data.views
    for page in pages:
        assert len(page.ordered) >= 2
        assert len(page.blocks) > len(page.ordered)  # a running line has no place in the order
        grey = np.asarray(page.image.convert("L"), dtype=float)
        for block in page.ordered:
            left, top, right, bottom = (int(value) for value in block.box)
            assert grey[top:bottom, left:right].min() < 100
            assert block.text.split()[0] in page.text


class Bare:
    """A data module without blocks."""

    views = None

    def probe_batch(self, sequences):
        from recipes.data.page_batch import PageBatch

        tokens = torch.zeros(1, 1, dtype=torch.int64)
        return PageBatch(tokens, tokens, tokens.bool(), None if sequences == 2 else torch.zeros(1, 3, 8, 8))


def test_other_data_gives_images_alone():
    pages, views = probe_pages(Bare(), 1)
    assert (pages[0].blocks, pages[0].image.size, views.global_size) == ((), (8, 8), 8)
    with pytest.raises(ValueError, match=r"Bare.probe_batch gives no pages"):
        probe_pages(Bare(), 2)


def test_how_far_a_raster_scan_reads_a_page():
    rows = [(0.0, 0.0, 8.0, 8.0), (8.0, 0.0, 16.0, 8.0), (0.0, 8.0, 8.0, 16.0), (8.0, 8.0, 16.0, 16.0)]
    image = Image.new("RGB", (16, 16))

    def raster(*orders: int) -> float:
        blocks = tuple(Block(box, order) for box, order in zip(rows, orders, strict=True))
        return ProbePage("page", image, blocks).raster

    assert raster(0, 1, 2, 3) == 1
    assert raster(3, 2, 1, 0) == -1
    # column by column: ranks 1 2 3 4 against 1 3 2 4
    assert raster(0, 2, 1, 3) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert ProbePage("empty", image).raster == 1
