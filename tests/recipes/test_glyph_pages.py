"""Pages of glyphs: what stands on them, their order, growth, resuming, and that a causal flow learns to read them."""

import itertools

import pytest
import torch

from recipes.data.glyph_pages import FIRST_GLYPH, GlyphPages
from recipes.data.glyph_text import RandomLetters, RandomWords, RunningText
from recipes.data.glyphs import DIGITS, EMPTY, LETTERS, RankedColumns, ScatteredDigits, bitmaps
from recipes.data.growth import FullSize, GrowByAccuracy, GrowBySteps
from recipes.data.page_batch import IGNORED


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pages(task=None, **changes) -> GlyphPages:
    arguments = {"glyph": 6, "batch_size": 4, "pages": 64, "validation_pages": 6, "page_tokens": 3}
    return GlyphPages(task or ScatteredDigits(rows=3, digits=4), **(arguments | changes))


@pytest.mark.parametrize("side", [6, 7, 12, 20])
def test_glyphs_differ(side):
    ink = bitmaps(DIGITS + LETTERS, side)
    assert ink.shape == (37, side, side)
    assert not ink[-1].any()
    flat = ink.flatten(1)
    assert len({tuple(glyph.tolist()) for glyph in flat}) == 37
    # at least two dots apart, so that noise hides none
    distance = torch.cdist(flat, flat, p=1) + 1e6 * torch.eye(37)
    assert distance.min() >= (side // 6) ** 2


def test_what_has_no_glyph():
    with pytest.raises(ValueError, match="no glyph for '%'"):
        bitmaps("a%", 6)
    with pytest.raises(ValueError, match="at least 6 pixels, got 5"):
        bitmaps("a", 5)


def test_scattered_digits_are_read_row_by_row():
    task = ScatteredDigits(rows=5, digits=9, distractors=4)
    for level, seed in itertools.product((1, 5, 9), range(5)):
        cells, answer = task.page(level, generator(seed))
        assert cells[(cells >= 0) & (cells < 10)].tolist() == answer.tolist()
        assert len(answer) == level
        assert int((cells >= 10).sum()) == 4
        assert int((cells == EMPTY).sum()) == 25 - level - 4


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("digits", [None, 2])
def test_columns_are_read_by_rank(gaps, digits):
    """Against a reading of the page written the other way round, column by column."""
    task, orders = RankedColumns(rows=5, columns=4, digits=digits, gaps=gaps), set()
    for level, seed in itertools.product((1, 3, 4), range(6)):
        cells, answer = task.page(level, generator(seed))
        columns = [column for column in cells.view(5, 5).T.tolist() if column[0] != EMPTY]
        ranks = [column[0] for column in columns]
        assert len(set(ranks)) == len(ranks) == level
        assert gaps or sorted(ranks) == list(range(level))
        orders.add(tuple(ranks))
        read = [digit for column in sorted(columns) for digit in column[1:] if digit != EMPTY]
        assert read == answer.tolist()
        assert len(answer) == level * (digits or 4)
    assert len(orders) > 8


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("The stream, once read & mixed, is written: 4 rows of it. " * 30)
    return str(path)


def test_what_the_order_alone_decides():
    task = RankedColumns(rows=4, columns=4, gaps=True)
    data = pages(task)
    batch = data._batch([data.held_out(0), data.page(0, level=2), data.page(1, level=1)])
    for row, (_, answer) in enumerate((data.held_out(0), data.page(0, level=2), data.page(1, level=1))):
        # first digits of all columns but the last, three digits each
        firsts = [answer[k] for k in range(0, len(answer) - 4, 3)]
        assert batch.labels[row][batch.deciding[row]].tolist() == firsts
    assert pages(ScatteredDigits(rows=3, digits=4))._batch([pages().held_out(0)]).deciding is None


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_what_can_be_read_without_the_order(columns):
    """Each page's commonest first digit among the columns that are left, over all draws of digits."""
    shares = []
    for left in range(2, columns + 1):
        counts = [max(map(digits.count, digits)) / left for digits in itertools.product(range(10), repeat=left)]
        shares.append(sum(counts) / len(counts))
    task = RankedColumns(rows=4, columns=columns)
    assert task.blind == pytest.approx(sum(shares) / len(shares))
    data = pages(task)
    assert data.summary()["blind_order_accuracy"] == task.blind
    held_out = [data._batch([data.held_out(k)]) for k in range(data.validation_pages)]
    assert data.summary()["order_tokens"] == sum(int(batch.deciding.sum()) for batch in held_out)
    assert not {"blind_order_accuracy", "order_tokens"} & pages().summary().keys()


def test_text_is_real_words_are_words_and_letters_are_anything(text):
    clean = "the stream once read mixed is written rows of it "
    for kind, more in ((RunningText, {"path": text}), (RandomWords, {"path": text}), (RandomLetters, {})):
        task = kind(rows=4, levels=2, **more)
        task.prepare()
        for level, held_out in ((1, False), (2, True)):
            cells, answer = task.page(level, generator(), held_out)
            read = "".join(task.alphabet[number] for number in answer.tolist())
            assert len(read) == 8 * level
            assert torch.equal(cells[: len(answer)], answer)
            assert (cells[len(answer) :] == task.alphabet.index(" ")).all()
            if kind is RunningText:
                assert read in clean * 3
            if kind is RandomWords:
                whole = f"{read} ".split()[:-1]
                assert set(whole) <= set(clean.split())


def test_short_text(tmp_path):
    (tmp_path / "short.txt").write_text("a few words")
    with pytest.raises(ValueError, match=r"data\.task\.path .*short\.txt' holds 11 letters"):
        pages(RunningText(rows=4, levels=2, path=str(tmp_path / "short.txt"))).setup()


def test_a_page_is_ink_on_paper():
    data = pages(ScatteredDigits(rows=3, digits=9), noise=0.0)
    pixels, answer = data.page(5)
    assert pixels.shape == (1, 18, 18)
    ink = bitmaps(DIGITS, 6)
    for place, token in enumerate(answer[:-1]):
        row, column = divmod(place, 3)
        cell = pixels[0, 6 * row : 6 * row + 6, 6 * column : 6 * column + 6]
        assert torch.equal(cell, 1 - 2 * ink[token - FIRST_GLYPH])


def test_batches():
    data = pages()
    batch = next(iter(data.train_dataloader()))
    assert batch.tokens.shape == (4, 3 + 1 + 4 + 1)
    assert batch.pages.shape == (4, 3, 18, 18)
    assert batch.crop_counts == (0,) * 4
    assert (batch.tokens[:, :4] == 1).all()
    assert (batch.labels[:, :3] == IGNORED).all()
    for row, index in enumerate(range(4)):
        pixels, answer = data.page(index)
        assert torch.equal(batch.pages[row], pixels.expand(3, -1, -1))
        assert batch.labels[row, 3:-1].tolist() == answer
    assert data.sequence_length == batch.tokens.shape[1]
    assert data.probe_batch(2).pages.shape[0] == 2


def test_pages_depend_on_seed_and_index_alone():
    def drawn(seed, **changes):
        torch.manual_seed(seed + 7)
        data = pages(seed=seed, **changes)
        return torch.cat([batch.pages for batch in itertools.islice(data.train_dataloader(), 3)])

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))
    held = [torch.cat([batch.pages for batch in pages(seed=seed).val_dataloader()]) for seed in (0, 5)]
    assert torch.equal(*held)
    assert len(held[0]) == 6


def test_loaders_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    data = pages()
    next(iter(data.train_dataloader()))
    next(iter(data.val_dataloader()))
    assert torch.equal(state, torch.get_rng_state())


def test_resumes_at_the_exact_page():
    whole = [batch.pages for batch in pages().train_dataloader()]
    assert len(whole) == 16
    loader = pages().train_dataloader()
    began = iter(loader)
    first = [next(began).pages for _ in range(5)]
    state = loader.state_dict()
    again = pages().train_dataloader()
    again.load_state_dict(state)
    assert all(torch.equal(*pair) for pair in zip(first + [batch.pages for batch in again], whole, strict=True))


def test_growth_by_steps():
    growth = GrowBySteps(steps=30)
    assert [growth.level(step, 0.5, 4) for step in (0, 9, 10, 20, 29, 30, 99)] == [1, 1, 2, 3, 3, 4, 4]
    mixed = GrowBySteps(steps=0, mixed=True)
    assert {mixed.level(0, draw / 40, 4) for draw in range(41)} == {1, 2, 3, 4}
    data = pages(growth=GrowBySteps(steps=3))
    assert [len(data.page(index)[1]) - 1 for index in (0, 3, 4, 8, 12)] == [1, 1, 2, 3, 4]


def test_growth_by_accuracy_is_in_the_state():
    data = pages(growth=GrowByAccuracy())
    assert len(data.page(9)[1]) == 2
    data.growth.reached = 3
    again = pages(growth=GrowByAccuracy())
    again.load_state_dict(data.state_dict())
    assert len(again.page(9)[1]) == 4
    assert again.summary() == data.summary()


def test_held_out_pages_are_full():
    data = pages(growth=GrowBySteps(steps=1000))
    assert all(int((batch.labels >= 0).sum(1).min()) == 5 for batch in data.val_dataloader())


def test_prior():
    data = pages(ScatteredDigits(rows=4, digits=16), validation_pages=200)
    share_of_end = 1 / 17
    expected = -share_of_end * torch.tensor(share_of_end).log() - 16 / 17 * torch.tensor(16 / 170).log()
    assert data.prior_loss() == pytest.approx(float(expected), abs=0.01)


def test_a_checkpoint_of_other_pages():
    state = pages().state_dict()
    pages().load_state_dict(state)
    with pytest.raises(ValueError, match=r"data\.seed is not what the checkpoint was trained on"):
        pages(seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"data is not what the checkpoint was trained on"):
        pages(noise=0.2).load_state_dict(state)
    with pytest.raises(ValueError, match=r"data is not what the checkpoint was trained on"):
        pages(growth=GrowBySteps(steps=3)).load_state_dict(state)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pages(batch_size=0), r"data\.batch_size must be at least 1, got 0"),
        (lambda: pages(noise=-1.0), r"data\.noise must not be negative"),
        (lambda: pages(pages=3), r"data\.pages is 3, but data\.batch_size is 4"),
        (lambda: ScatteredDigits(rows=3, digits=10), "10 digits and 0 distractors do not fit into 3 x 3 cells"),
        (lambda: RankedColumns(rows=4, columns=5), "columns must be from 1 to rows = 4"),
        (lambda: RankedColumns(rows=4, columns=4, digits=4), r"digits must be from 1 to rows - 1 = 3"),
        (lambda: GrowBySteps(steps=-1), r"data\.growth\.steps must not be negative"),
        (lambda: GrowByAccuracy(threshold=1.0), r"data\.growth\.threshold must be above 0 and below 1"),
        (lambda: pages(page_tokens=None).probe_batch(1), r"data\.page_tokens must be given"),
        (lambda: RandomLetters(rows=2, levels=5), "levels from 1 to rows x rows"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_full_size_is_the_default():
    assert isinstance(pages().growth, FullSize)
    assert len(pages().page(0)[1]) == 5
