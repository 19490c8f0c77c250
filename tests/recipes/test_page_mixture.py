"""Sources mixed by weight: shares, sizes, packing, the exact sample after a stop, and what is broken."""

import io
import itertools
import json
import logging
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from record_files import bomb, png, write_lines, write_shard
from small_ocr import OCR, write_pages

from encoders.views import Views
from recipes.configuration import parse_yaml
from recipes.data import PageMixture
from recipes.data.page_batch import PageBatch
from recipes.data.page_data import Source
from recipes.data.records import JSONLines, PairFolder, TarShards
from recipes.fit import main

VIEWS = Views(global_size=64, crop_size=32, max_crops=2)


def mixture(folder, weights=(2.0, 1.0, 1.0), **changes) -> PageMixture:
    """Twelve pages in each of three forms: 0 to 11 in the folder, 100 to 111 in the shard, 200 to 211 in the lines."""
    if not (folder / "tokenizer").exists():
        write_pages(folder, 12)
        write_shard(folder / "shards" / "a.tar", range(100, 112))
        write_lines(folder / "lines" / "a.jsonl", range(200, 212))
    arguments = {
        "tokenizer": str(folder / "tokenizer"),
        "sources": {
            "pairs": Source(PairFolder(str(folder / "pages")), weights[0]),
            "shards": Source(TarShards(str(folder / "shards")), weights[1]),
            "lines": Source(JSONLines(str(folder / "lines")), weights[2]),
        },
        "sequence_length": 96,
        "batch_size": 4,
        "prompt": "<image>\nread",
        "views": VIEWS,
        "validation_fraction": 0.2,
        "max_broken": 0.3,
        "page_tokens": 16,
        "crop_tokens": 4,
    }
    return PageMixture(**(arguments | changes))


def batches(data: PageMixture, count: int = 1000) -> list[PageBatch]:
    return list(itertools.islice(iter(data.train_dataloader()), count))


def numbers(data: PageMixture, batch: PageBatch) -> list[int]:
    """Of the pages of a batch, from their texts."""
    answers = [data.processor.tokenizer.decode(row[row >= 0].tolist()) for row in batch.labels]
    return [int(part.split()[0].rstrip("x")) for answer in answers for part in answer.split("# page ")[1:]]


def with_model(data: PageMixture, replicas: int = 1, rank: int = 0, accumulated: int = 1) -> PageMixture:
    """As if a trainer had it, whose model gives a token for each 16 x 16 pixels."""
    vision = SimpleNamespace(tokens_per_view=lambda height, width: height * width // 256)
    data.trainer = SimpleNamespace(
        lightning_module=SimpleNamespace(network=SimpleNamespace(vision=vision)),
        accumulate_grad_batches=accumulated,
        distributed_sampler_kwargs={"num_replicas": replicas, "rank": rank},
    )
    return data


def equal(one: PageBatch, other: PageBatch) -> bool:
    def same(a, b):
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

    return all(same(a, b) for a, b in zip(one, other, strict=True))


def test_sources_come_by_their_weights_and_go_round(tmp_path):
    data = mixture(tmp_path)
    loader = data.train_dataloader()
    seen = [number for _ in range(10) for batch in loader for number in numbers(data, batch)]
    kinds = Counter(number // 100 for number in seen)
    assert len(seen) == 280
    assert abs(kinds[0] - 140) <= 2
    assert abs(kinds[1] - 70) <= 2
    # each page of a source comes as often as any other of it, to one round
    for kind in range(3):
        often = Counter(number for number in seen if number // 100 == kind)
        assert len(often) == 10
        assert max(often.values()) - min(often.values()) <= 1
    summary = data.summary()
    assert (summary["pages"], summary["train_pages"], summary["validation_pages"]) == (36, 30, 6)
    assert summary["sources"]["shards"]["weight"] == 1


def test_every_division_sees_the_same_pages_in_a_step(tmp_path):
    def steps(replicas, accumulated):
        found = []
        for rank in range(replicas):
            data = with_model(mixture(tmp_path), replicas, rank, accumulated)
            given = [numbers(data, batch) for batch in batches(data)]
            found.append(
                [list(itertools.chain(*given[k : k + accumulated])) for k in range(0, len(given), accumulated)]
            )
        return [sorted(itertools.chain(*parts)) for parts in zip(*found, strict=True)]

    assert len(steps(1, 1)) == 7
    assert steps(1, 1) == steps(2, 1) == steps(2, 2) == steps(1, 4)
    with pytest.raises(ValueError, match=r"data\.batch_size is 4, which 3 processes"):
        with_model(mixture(tmp_path), 3).train_dataloader()


def test_a_step_has_one_size_and_sizes_their_weights(tmp_path):
    data = with_model(
        mixture(tmp_path, page_sizes={32: 1, 64: 3}, views=Views(max_crops=0), page_tokens=None, crop_tokens=None)
    )
    loader = data.train_dataloader()
    sides = []
    for _ in range(12):
        for batch in loader:
            side = batch.pages.shape[-1]
            sides.append(side)
            slots = (batch.tokens == 259).sum(1)
            assert set(slots.tolist()) == {side**2 // 256 + 1}
            assert batch.crops is None
    assert len(sides) == 84
    assert abs(sides.count(32) - 21) <= 3
    assert {batch.pages.shape[-1] for batch in batches(with_model(data, 1, 0, 4), 4)} == {sides[0]}
    assert len(data.probe_batch(9).tokens) == 9


def test_packed_rows_hold_the_samples_of_the_step(tmp_path):
    alone, packed = mixture(tmp_path, sequence_length=64), mixture(tmp_path, sequence_length=64, packed_length=128)
    for one, other in zip(batches(alone), batches(packed), strict=True):
        assert len(other.tokens) < len(one.tokens)
        assert other.tokens.shape[1] <= 128
        assert sorted(numbers(alone, one)) == sorted(numbers(packed, other))
        assert int(one.mask.sum()) == int(other.mask.sum())
        assert (one.labels >= 0).sum() == (other.labels >= 0).sum()
        # an image is as many slots as its own crops say, in the order of the rows
        slots = [
            int(((other.tokens == 259) & (other.documents == k))[row].sum())
            for row in range(len(other.tokens))
            for k in range(int(other.documents[row].max()) + 1)
        ]
        assert slots == [17 + 4 * count for count in other.crop_counts]
        assert torch.equal(other.documents >= 0, other.mask)


@pytest.mark.parametrize(("workers", "stop"), [(0, 3), (0, 7), (0, 9), (2, 7), (2, 9)])
def test_goes_on_at_the_exact_sample(tmp_path, workers, stop):
    """Within a pass of seven batches, at its end, and in the next."""
    data = mixture(tmp_path, packed_length=200)
    loader = data.train_dataloader()
    whole = [batch for _ in range(3) for batch in loader]
    stopped = mixture(tmp_path, packed_length=200, workers=workers).train_dataloader()
    given, began = [], None
    while len(given) < stop:
        began = began or iter(stopped)
        batch = next(began, None)
        if batch is None:
            began = None
        else:
            given.append(batch)
    file = io.BytesIO()
    torch.save({"loader": stopped.state_dict(), "data": data.state_dict()}, file)
    del began, stopped
    file.seek(0)
    state = torch.load(file, weights_only=True)
    again = mixture(tmp_path, packed_length=200, workers=workers)
    again.load_state_dict(state["data"])
    loader = again.train_dataloader()
    loader.load_state_dict(state["loader"])
    after = [batch for _ in range(3) for batch in loader][: 21 - stop]
    assert len(given) + len(after) == 21
    assert all(equal(one, other) for one, other in zip(whole, given + after, strict=True))


def test_counts_go_on_too(tmp_path):
    mixture(tmp_path)
    for number in range(3, 6):
        (tmp_path / "pages" / f"page{number}.png").write_bytes(bomb())
    loader = mixture(tmp_path, workers=2).train_dataloader()
    began = iter(loader)
    for _ in range(5):
        next(began)
    again = mixture(tmp_path, workers=2).train_dataloader()
    again.load_state_dict(loader.state_dict())
    assert loader.tally.broken > 0
    # of the batches that were given, and of none that was read ahead
    assert loader.tally.tried == 20 + loader.tally.broken
    assert (again.tally.tried, again.tally.broken) == (loader.tally.tried, loader.tally.broken)


def test_broken_records_are_named_once_and_replaced(tmp_path, caplog):
    mixture(tmp_path)
    (tmp_path / "pages" / "page1.md").write_text(" \n")
    (tmp_path / "pages" / "page2.png").write_bytes(bomb())
    (tmp_path / "pages" / "alone.png").write_bytes(png(1))
    more = {"train/0199.png": png(199), "train/0199.md": b"of an <image>", "train/0198.png": png(198)}
    write_shard(tmp_path / "shards" / "a.tar", range(100, 112), more)
    with (tmp_path / "lines" / "a.jsonl").open("a") as file:
        file.write('{"image": "none.png", "text": "x"}\n{"image')
    data = mixture(tmp_path, (1, 1, 1), validation_fraction=0.01, batch_size=3)
    with caplog.at_level(logging.WARNING):
        loader = data.train_dataloader()
        list(loader)
        list(loader)
    named = [record.getMessage() for record in caplog.records]
    for words in (
        "alone.png: has no Markdown",
        "a.tar/train/0198: has no text",
        "page1.png: its text is empty",
        "page2.png",
        "a.tar/train/0199: its text holds <image>",
        "a.jsonl line 13: ",
        "a.jsonl line 14: is no JSON",
    ):
        assert any(words in message for message in named), (words, named)
    assert loader.tally.broken == sum("records so far" in message for message in named)
    assert loader.tally.tried == loader.tally.broken + 2 * len(loader) * 3


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_stop_the_run(tmp_path, workers):
    mixture(tmp_path)
    lines = (tmp_path / "lines" / "a.jsonl").read_text().splitlines()
    (tmp_path / "lines" / "a.jsonl").write_text("\n".join(line[:20] for line in lines))
    data = mixture(tmp_path, max_broken=0.1, workers=workers)
    match = r"^data\.sources: \d+ of \d+ records cannot be read, the last one a\.jsonl line \d+: is no JSON.*max_broken"
    with pytest.raises(ValueError, match=match):
        batches(data)
    with pytest.raises(ValueError, match=r"^data\.sequence_length is 20, but .* with its prompt takes \d+ tokens"):
        batches(mixture(tmp_path, sequence_length=20, workers=workers, sources=pairs(tmp_path)))


def pairs(folder) -> dict[str, Source]:
    return {"pairs": Source(PairFolder(str(folder / "pages")))}


def test_too_many_faults_stop_it_before(tmp_path):
    mixture(tmp_path)
    for number in range(9):
        (tmp_path / "pages" / f"page{number}.md").unlink()
    with pytest.raises(ValueError, match=r"^data\.sources: 9 of 36 records are broken, the first: .*page0\.png"):
        mixture(tmp_path, max_broken=0.2).setup()
    shard = tmp_path / "shards" / "a.tar"
    shard.write_bytes(shard.read_bytes()[:800])
    with pytest.raises(ValueError, match=r"^data\.sources\.shards holds 0 pages \(\d broken, the first: .*a\.tar"):
        mixture(tmp_path).setup()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sources": {}}, r"data\.sources must hold"),
        ({"weights": (0.0, 1, 1)}, r"data\.sources\.pairs\.weight"),
        ({"packed_length": 64}, r"data\.packed_length is 64"),
        ({"page_sizes": {}}, r"data\.page_sizes"),
        ({"page_sizes": {32: 0.0}}, r"data\.page_sizes"),
        ({"page_sizes": {0: 1.0}}, r"data\.page_sizes"),
    ],
)
def test_refuses(tmp_path, changes, match):
    with pytest.raises(ValueError, match=match):
        mixture(tmp_path, **changes)


def test_a_source_may_bring_its_pages_to_validate_on(tmp_path):
    mixture(tmp_path)
    held = JSONLines(str(tmp_path / "lines"))
    data = mixture(tmp_path, sources={"pairs": Source(PairFolder(str(tmp_path / "pages")), 1, held)})
    summary = data.summary()
    assert (summary["train_pages"], summary["validation_pages"]) == (12, 12)
    validated = [number for batch in data.val_dataloader() for number in numbers(data, batch)]
    assert validated == list(range(200, 212))
    assert {number // 100 for batch in batches(data) for number in numbers(data, batch)} == {0}


def test_validation_is_cut_by_weights(tmp_path):
    data = mixture(tmp_path, validation_fraction=0.5, validation_batches=2)
    validated = [number // 100 for batch in data.val_dataloader() for number in numbers(data, batch)]
    assert validated == [0] * 4 + [1] * 2 + [2] * 2


def test_other_weights_do_not_resume(tmp_path):
    data = mixture(tmp_path)
    data.setup()
    with pytest.raises(ValueError, match=r"^data\.sources is not what the checkpoint was trained on"):
        mixture(tmp_path, (1.0, 1.0, 1.0)).load_state_dict(data.state_dict())
    mixture(tmp_path).load_state_dict(data.state_dict())


def configuration(folder, **changes) -> str:
    """A run of the tiny model on the folder's pages."""
    tree = parse_yaml(OCR)
    tree["data"] = {
        "class_path": "recipes.data.PageMixture",
        "init_args": {
            "tokenizer": str(folder / "tokenizer"),
            "sources": {
                "pairs": {
                    "records": {
                        "class_path": "recipes.data.records.PairFolder",
                        "init_args": {"path": str(folder / "pages")},
                    },
                    "weight": 1,
                }
            },
            "prompt": "<image>\nread",
            "sequence_length": 96,
            "packed_length": 192,
            "batch_size": 4,
            "page_sizes": {64: 1, 32: 1},
            "views": {"global_size": 64, "crop_size": 32, "max_crops": 0},
            "validation_fraction": 0.2,
            **changes,
        },
    }
    tree["trainer"]["default_root_dir"] = str(folder / "run")
    path = folder / "run.yaml"
    path.write_text(json.dumps(tree))
    return str(path)


@pytest.mark.filterwarnings("ignore")
def test_a_run_on_the_mixture_and_one_on_broken_pages_alone(tmp_path, capsys):
    mixture(tmp_path)
    path = configuration(tmp_path)
    assert main(["--config", path, "--trainer.limit_train_batches", "2"]) == 0
    other = ["--trainer.default_root_dir", str(tmp_path / "other")]
    capsys.readouterr()
    assert main(["--config", path, *other, "--data.page_sizes", "{48: 1}"]) == 2
    assert "data.page_sizes: no query bank for a view of 48x48 pixels" in capsys.readouterr().err
    for page in (tmp_path / "pages").glob("*.png"):
        page.write_bytes(b"no image")
    assert main(["--config", path, *other, "--data.workers", "2", "--ablation.restart"]) == 2
    told = capsys.readouterr().err
    assert "data.sources: " in told
    assert "records cannot be read" in told
    assert "Traceback" not in told
