"""Made-up pages as a data module: order, split, cache, exact resume, and a tokenizer that needs no download."""

import itertools
import json
import logging
import multiprocessing
import pickle
from pydoc_data.topics import topics

import pytest
import torch
from tiny_tokenizer import tiny_tokenizer

from encoders.processor import OCR2Processor
from encoders.views import Views
from recipes.data.page_batch import PageBatch
from recipes.data.page_data import Source
from recipes.data.page_mixture import PageMixture
from recipes.data.synthetic_pages import SyntheticDocuments, SyntheticPages
from recipes.documents import Contents, cache
from recipes.documents.cache import PageCache
from recipes.documents.tokenizer import BYTE_IMAGE, BYTES, byte_tokenizer, main, trained_tokenizer

CONTENTS = Contents(text_size=8, max_columns=2)


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(cache, "TOGETHER", 10)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    (folder / "words.txt").write_text("\n".join(topics.values())[:60000])
    return folder


def made(folder, **changes) -> SyntheticPages:
    arguments = {
        "size": 20,
        "width": 120,
        "height": 100,
        "contents": CONTENTS,
        "path": str(folder / "words.txt"),
        "cache": str(folder / "cache"),
        "sequence_length": 400,
        "batch_size": 4,
        "views": Views(global_size=64, crop_size=32, max_crops=0),
        "validation_batches": 2,
        "page_tokens": 16,
        "crop_tokens": 4,
    }
    return SyntheticPages(**(arguments | changes))


def batches(data: SyntheticPages, count: int = 1000) -> list[PageBatch]:
    return list(itertools.islice(iter(data.train_dataloader()), count))


def answers(data: SyntheticPages, batch: PageBatch) -> list[str]:
    return [data.processor.tokenizer.decode(row[row >= 0].tolist()).rstrip("\n") for row in batch.labels]


def test_batches_are_pages_and_their_text(shared):
    data = made(shared)
    data.prepare_data()
    batch = batches(data, 1)[0]
    assert batch.pages.shape == (4, 3, 64, 64)
    assert batch.pages.std() > 0.1
    known = {data.train_pages.read(number).text for number in range(20)}
    for answer in answers(data, batch):
        text = answer.removesuffix("<｜end▁of▁sentence｜>")
        assert any(page.startswith(text) for page in known)
    assert len({answer for found in batches(data) for answer in answers(data, found)}) == 20


def test_validation_is_of_another_seed_and_does_not_change(shared):
    data, other = made(shared), made(shared, size=8, seed=5)
    data.setup()
    other.setup()
    held = [data.held_pages.read(number).text for number in range(8)]
    assert held == [other.held_pages.read(number).text for number in range(8)]
    assert not set(held) & {data.train_pages.read(number).text for number in range(20)}
    assert sum(len(batch.tokens) for batch in data.val_dataloader()) == 8
    assert data.summary()["validation_pages"] == 8
    assert torch.equal(data.probe_batch(3).tokens, other.probe_batch(3).tokens)
    assert made(shared, document_seed=1).held_pages.read(0).text != held[0]


def test_resumes_at_the_exact_page(shared):
    data = made(shared)
    whole = [answers(data, batch) for batch in batches(data)]
    loader = data.train_dataloader()
    began = iter(loader)
    first = [answers(data, next(began)) for _ in range(2)]
    state = loader.state_dict()
    again = made(shared).train_dataloader()
    again.load_state_dict(state)
    assert first + [answers(data, batch) for batch in again] == whole
    assert [answers(data, batch) for batch in batches(made(shared, seed=1))] != whole


def test_other_pages_do_not_resume(shared):
    data = made(shared)
    data.setup()
    state = data.state_dict()
    made(shared).load_state_dict(state)
    for change in ({"size": 21}, {"mode": "random_words"}, {"document_seed": 3}, {"degradation": 0.5}):
        with pytest.raises(ValueError, match=r"^data is not what the checkpoint was trained on"):
            made(shared, **change).load_state_dict(state)
    with pytest.raises(ValueError, match=r"data\.seed"):
        made(shared, seed=7).load_state_dict(state)


def test_grounding(shared):
    text = made(shared, grounding=True).train_pages.read(3).text
    assert text.startswith("<|ref|>")
    assert text.count("<|det|>") > 1
    data = made(shared, grounding=True, prompt="<image>\n<|grounding|>read")
    batch = batches(data, 1)[0]
    assert (batch.labels == data.processor.token("<|det|>")).sum() > 4


def test_workers_give_the_same_batches(shared):
    alone, beside = batches(made(shared)), batches(made(shared, workers=1))
    assert all(torch.equal(one.tokens, other.tokens) for one, other in zip(alone, beside, strict=True))
    assert all(torch.equal(one.pages, other.pages) for one, other in zip(alone, beside, strict=True))


def test_pages_are_made_once(shared, tmp_path):
    data = made(shared, cache=str(tmp_path), size=12)
    data.prepare_data()
    files = sorted(tmp_path.rglob("*.zip"))
    assert len(files) == 3  # two of the training's, one of the validation's
    before = [path.stat().st_mtime_ns for path in files]
    again = made(shared, cache=str(tmp_path), size=12)
    again.prepare_data()
    batches(again, 2)
    assert [path.stat().st_mtime_ns for path in files] == before
    # a larger set has the smaller one's pages
    assert made(shared, cache=str(tmp_path), size=15).train_pages.read(11).text == data.train_pages.read(11).text


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "text"])
def test_a_damaged_file_is_named_and_made_anew(shared, tmp_path, caplog, harm):
    data = made(shared, cache=str(tmp_path))
    page = data.train_pages.read(0)
    path = data.train_pages.pages.folder / "pages-000000.zip"
    whole = path.read_bytes()
    middle = len(whole) // 100
    harmed = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"no zip",
        "flip": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
    }[harm]
    path.write_bytes(harmed)
    with caplog.at_level(logging.WARNING):
        again = made(shared, cache=str(tmp_path)).train_pages.read(0)
    assert str(path) in caplog.text
    assert "made anew" in caplog.text
    assert path.read_bytes() == whole
    assert (again.text, again.image.tobytes()) == (page.text, page.image.tobytes())


def fill(records, size):
    records.pages.fill(size)


def test_two_processes_make_one_cache(shared, tmp_path):
    data = made(shared, cache=str(tmp_path), size=20)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fill, args=(data.train_pages, 20)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "pages-000000.zip",
        "pages-000001.zip",
    ]
    one = PageCache(tmp_path / "other", data.train_pages.order)
    one.fill(20)
    for name in ("pages-000000.zip", "pages-000001.zip"):
        assert (one.folder / name).read_bytes() == (data.train_pages.pages.folder / name).read_bytes()


def test_a_folder_that_cannot_be_written(shared, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        made(shared, cache=str(tmp_path / "file")).prepare_data()


def test_bad_input(shared, tmp_path):
    for change, told in (
        ({"size": 1}, r"data\.size must be at least 2 pages, got 1"),
        ({"batch_size": 0}, r"data\.batch_size"),
    ):
        with pytest.raises(ValueError, match=told):
            made(shared, **change)
    (tmp_path / "empty.txt").write_text("12 34")
    for change, told in (
        ({"path": str(tmp_path / "none")}, r"data\.path .*none' is not found"),
        ({"path": str(tmp_path / "empty.txt")}, r"data\.path .*empty.txt' holds no words"),
        ({"width": 8}, "too small"),
        ({"mode": "upside_down"}, "mode must be one of"),
        ({"tokenizer": str(tmp_path)}, r"tokenizer\.json"),
        ({"batch_size": 64}, "only 20 training pages"),
        ({"sequence_length": 12}, r"data\.sequence_length is 12, but 0/0000.* takes"),
    ):
        with pytest.raises(ValueError, match=told):
            batches(made(shared, **change), 1)


def test_a_source_of_a_mixture(shared):
    data = made(shared)
    data.setup()
    sources = {
        name: Source(
            SyntheticDocuments(
                10, seed, 120, 100, "prose", CONTENTS, path=data.train_pages.order.path, cache=str(shared / "cache")
            )
        )
        for name, seed in (("one", 1), ("two", 2))
    }
    mixture = PageMixture(
        data.tokenizer,
        sources,
        batch_size=4,
        sequence_length=400,
        views=data.views,
        page_tokens=16,
        crop_tokens=4,
        validation_fraction=0.2,
    )
    assert len(list(mixture.train_dataloader())) == 4


def test_records_can_be_sent_to_another_process(shared):
    records = made(shared).train_pages
    text = records.read(1).text
    packed = pickle.dumps(records)
    assert len(packed) < 10_000
    assert pickle.loads(packed).read(1).text == text


def test_byte_tokenizer_is_the_tests():
    ours, theirs = byte_tokenizer(), tiny_tokenizer()
    assert json.loads(ours.to_str()) == json.loads(theirs.to_str())
    assert ours.get_vocab_size() == BYTES
    assert ours.token_to_id("<image>") == BYTE_IMAGE


def test_learned_tokenizer(tmp_path, capsys):
    text = list(topics.values())[:40]
    first, second = trained_tokenizer(text, 400), trained_tokenizer(text, 400)
    assert first.to_str() == second.to_str()
    assert first.get_vocab_size() == 400
    sample = "<table><tr><td>Été {x}</td></tr></table>\n  two  spaces"
    processor = OCR2Processor(first)
    assert processor.decode(processor.encode(sample)) == sample
    assert len(first.encode(text[0]).ids) < 0.8 * len(byte_tokenizer().encode(text[0]).ids)
    assert processor.token("<td>") in processor.encode(sample)
    with pytest.raises(ValueError, match=f"at least {BYTES}"):
        trained_tokenizer(text, 100)
    with pytest.raises(ValueError, match="lower size"):
        trained_tokenizer(["ab ab ab"], 400)
    (tmp_path / "words.txt").write_text("\n".join(text))
    command = ["--output", str(tmp_path / "out"), "--size", "300", "--text", str(tmp_path / "words.txt")]
    assert main(command) == 0
    assert "300 tokens" in capsys.readouterr().out
    assert OCR2Processor.from_pretrained(tmp_path / "out").tokenizer.get_vocab_size() == 300
    assert main(["--output", str(tmp_path / "out"), "--size", "3"]) == 2
    assert "error: size must be" in capsys.readouterr().err
