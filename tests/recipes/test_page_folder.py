"""Pages, their order and split, labels, broken records, and the exact place in an epoch."""

import itertools
import logging

import pytest
import torch
from PIL import Image
from small_ocr import write_pages

from encoders.views import Views
from recipes.data import PageFolder
from recipes.data.page_batch import IGNORED, PageBatch
from recipes.data.records import Records
from recipes.data.records.interface import hold_out

IMAGE, BEGIN, END, PADDING = 259, 0, 1, 2
VIEWS = Views(global_size=64, crop_size=32, max_crops=2)


def pages(folder, count=12, **changes) -> PageFolder:
    if not (folder / "pages").exists():
        write_pages(folder, count)
    arguments = {
        "path": str(folder / "pages"),
        "tokenizer": str(folder / "tokenizer"),
        "sequence_length": 96,
        "batch_size": 2,
        "prompt": "<image>\nread",
        "views": VIEWS,
        "validation_fraction": 0.25,
        "page_tokens": 16,
        "crop_tokens": 4,
    }
    return PageFolder(**(arguments | changes))


def batches(data: PageFolder, count: int = 1000) -> list[PageBatch]:
    return list(itertools.islice(iter(data.train_dataloader()), count))


def keys(parts: list[Records]) -> list[str]:
    return [part.key(index) for part in parts for index in range(len(part))]


def answers(data: PageFolder, batch: PageBatch) -> list[str]:
    return [data.processor.tokenizer.decode(row[row >= 0].tolist()[:-1]) for row in batch.labels]


def test_labels_are_the_answer_that_follows(tmp_path):
    data = pages(tmp_path)
    batch = batches(data, 1)[0]
    for row in range(2):
        tokens, labels = batch.tokens[row][batch.mask[row]], batch.labels[row][batch.mask[row]]
        slots = batch.crop_counts[row] * 4 + 16 + 1
        prompt = 1 + slots + len("\nread")
        assert tokens[0] == BEGIN
        assert (tokens[1 : 1 + slots] == IMAGE).all()
        assert int((tokens == IMAGE).sum()) == slots
        assert tokens[-1] == END
        # nothing of the prompt is asked for; the answer's first token is, at the prompt's last
        assert (labels[: prompt - 1] == IGNORED).all()
        assert torch.equal(labels[prompt - 1 : -1], tokens[prompt:])
        assert labels[-1] == IGNORED
        assert (batch.tokens[row][~batch.mask[row]] == PADDING).all()
        assert (batch.labels[row][~batch.mask[row]] == IGNORED).all()
    assert answers(data, batch)[0].startswith("# page ")
    assert batch.mask[:, 0].all()
    assert batch.images.crop_counts == batch.crop_counts
    assert sum(batch.crop_counts) == (0 if batch.crops is None else len(batch.crops))


def test_order_depends_on_the_seed_alone(tmp_path):
    def order(seed):
        data = pages(tmp_path, seed=seed)
        torch.manual_seed(seed + 100)
        return [answer for batch in batches(data) for answer in answers(data, batch)]

    assert order(3) == order(3)
    assert order(3) != order(4)
    assert len(set(order(3))) == 8  # nine training pages in whole batches


def test_resumes_at_the_exact_page(tmp_path):
    data = pages(tmp_path)
    whole = [answers(data, batch) for batch in batches(data)]
    loader = data.train_dataloader()
    began = iter(loader)
    first = [answers(data, next(began)) for _ in range(2)]
    state = loader.state_dict()
    again = pages(tmp_path).train_dataloader()
    again.load_state_dict(state)
    assert first + [answers(data, batch) for batch in again] == whole


def test_loaders_leave_the_global_generator_alone(tmp_path):
    data = pages(tmp_path)
    state = torch.get_rng_state()
    batches(data, 1)
    next(iter(data.val_dataloader()))
    data.probe_batch(2)
    assert torch.equal(state, torch.get_rng_state())


def test_held_out_pages_are_a_pages_own_business(tmp_path):
    data = pages(tmp_path)
    data.setup()
    assert not set(keys(data.train)) & set(keys(data.validation))
    assert (len(keys(data.train)), len(keys(data.validation))) == (9, 3)
    other = pages(tmp_path, seed=9)
    other.setup()
    assert keys(other.validation) == keys(data.validation)
    names = [f"{number}.png" for number in range(1000)]
    held, more = hold_out(names, 0.1), hold_out([*names, "new.png"], 0.1)
    assert len(held) == 100
    assert len(held - more) <= 1
    probe = data.probe_batch(5)
    assert len(probe.tokens) == 5


def test_broken_pages_are_named_and_replaced(tmp_path, caplog):
    write_pages(tmp_path, 24)
    (tmp_path / "pages" / "page3.png").write_bytes(b"\x89PNG and no more")
    (tmp_path / "pages" / "page5.md").write_bytes(b"\xff\xfe")
    (tmp_path / "pages" / "page8.md").write_text("")
    (tmp_path / "pages" / "page11.md").write_text("of an <image>")
    data = pages(tmp_path, max_broken=0.4, validation_fraction=0.05, batch_size=1)
    with caplog.at_level(logging.WARNING):
        found = [answer for batch in batches(data) for answer in answers(data, batch)]
    assert len(found) == 23
    held = keys(data.validation)
    for name in ("page3.png", "page5.md", "page8.png", "page11.png"):
        if f"{name.partition('.')[0]}.png" not in held:
            assert name in caplog.text
    assert "skipped, 1 of" in caplog.text


def test_too_many_broken_pages(tmp_path):
    write_pages(tmp_path, 12)
    for path in (tmp_path / "pages").glob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"data\.path: 9 of 9 records cannot be read.*page\d+\.png.*data\.max_broken"):
        batches(pages(tmp_path))
    with pytest.raises(ValueError, match="none of its 9 pages"):
        batches(pages(tmp_path, max_broken=0.9))


def test_images_without_text(tmp_path):
    write_pages(tmp_path, 8)
    Image.new("RGB", (8, 8)).save(tmp_path / "pages" / "alone.png")
    with pytest.raises(ValueError, match=r"1 of 9 records are broken.*alone\.png: has no Markdown.*data\.max_broken"):
        pages(tmp_path).setup()
    data = pages(tmp_path, max_broken=0.2)
    assert data.summary()["faults"] == 1


def test_missing_folders(tmp_path):
    with pytest.raises(ValueError, match=r"data\.path .*none' is no folder"):
        pages(tmp_path, path=str(tmp_path / "none")).setup()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"data\.path .* holds no images"):
        pages(tmp_path, path=str(tmp_path / "empty")).setup()
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        pages(tmp_path, tokenizer=str(tmp_path / "empty")).setup()


def test_rows_are_cut_and_short_rows_refused(tmp_path):
    write_pages(tmp_path)
    (tmp_path / "pages" / "page0.md").write_text("long " * 100)
    assert max(batch.tokens.shape[1] for batch in batches(pages(tmp_path, validation_fraction=0.1))) == 96
    with pytest.raises(ValueError, match=r"data\.sequence_length is 20, but page\d\.png with its prompt takes \d+"):
        batches(pages(tmp_path, sequence_length=20))


def test_no_model_to_ask(tmp_path):
    with pytest.raises(ValueError, match=r"data\.page_tokens"):
        pages(tmp_path, page_tokens=None).train_dataloader()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch_size", 0),
        ("sequence_length", 0),
        ("workers", -1),
        ("validation_fraction", 1.0),
        ("max_broken", 1.0),
        ("prompt", "read"),
    ],
)
def test_refuses(tmp_path, option, value):
    with pytest.raises(ValueError, match=rf"data\.{option}"):
        pages(tmp_path, **{option: value})


def test_other_pages_or_seed_do_not_resume(tmp_path):
    data = pages(tmp_path, seed=1)
    data.setup()
    state = data.state_dict()
    with pytest.raises(ValueError, match=r"data\.seed"):
        pages(tmp_path, seed=2).load_state_dict(state)
    with pytest.raises(ValueError, match=r"data\.path"):
        data.load_state_dict(state | {"sha256": "0"})
    pages(tmp_path, seed=1).load_state_dict(state)


def test_workers_give_the_same_batches(tmp_path):
    alone, beside = batches(pages(tmp_path)), batches(pages(tmp_path, workers=1))
    assert all(torch.equal(one.tokens, other.tokens) for one, other in zip(alone, beside, strict=True))
