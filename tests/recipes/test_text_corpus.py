"""Order, splits, exact state and errors of the corpus."""

import itertools

import numpy as np
import pytest
import torch

from recipes.data import CharacterVocabulary, TextCorpus
from recipes.data.text_files import matching_files, python_files
from tests.recipes.training import corpus


def batches(data: TextCorpus, count: int) -> list[torch.Tensor]:
    return [inputs for inputs, _ in itertools.islice(iter(data.train_dataloader()), count)]


def spans(windows) -> set[int]:
    length = windows.sequence_length + 1 if hasattr(windows, "sequence_length") else len(windows._offsets)
    return {int(start) + k for start in windows.starts for k in range(length)}


def test_targets_follow_inputs(tmp_path):
    inputs, targets = next(iter(corpus(tmp_path).train_dataloader()))
    assert inputs.shape == targets.shape == (4, 16)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_order_depends_on_the_seed_alone(tmp_path):
    first = batches(corpus(tmp_path, seed=3), 5)
    torch.manual_seed(999)
    torch.rand(100)
    again = batches(corpus(tmp_path, seed=3), 5)
    other = batches(corpus(tmp_path, seed=4), 5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_loaders_leave_the_global_generator_alone(tmp_path):
    data = corpus(tmp_path)
    state = torch.get_rng_state()
    batches(data, 2)
    next(iter(data.val_dataloader()))
    data.probe_batch(2)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("split_blocks", [1, 4, 7])
@pytest.mark.parametrize("stride", [None, 5])
def test_splits_do_not_overlap(tmp_path, split_blocks, stride):
    data = corpus(tmp_path, split_blocks=split_blocks, stride=stride, validation_batches=1000)
    data.setup()
    train, validation = spans(data.train_windows), spans(data.validation_windows)
    assert not train & validation
    assert max(train | validation) < data.summary()["tokens"]
    # the last tenth of every region, give or take a window
    count = data.summary()["tokens"]
    for block in range(split_blocks):
        cut = round(count * (block + 0.9) / split_blocks)
        end = round(count * (block + 1) / split_blocks)
        inside = [position for position in validation if cut - 1 <= position <= end]
        assert len(inside) >= end - cut - 17 * 2


def test_one_epoch_shows_each_window_at_most_once(tmp_path):
    data = corpus(tmp_path)
    seen = [tuple(row.tolist()) for inputs in batches(data, 10_000) for row in inputs]
    assert len(seen) == len(data.train_windows) // 4 * 4
    windows = [tuple(inputs.tolist()) for inputs, _ in (data.train_windows[k] for k in range(len(data.train_windows)))]
    assert set(seen) <= set(windows)


def test_validation_is_fixed_and_evenly_spread(tmp_path):
    everything = corpus(tmp_path, validation_batches=1000)
    few = corpus(tmp_path, seed=7, validation_batches=2)
    everything.setup()
    few.setup()
    assert len(few.validation_windows) == 8
    places = np.searchsorted(everything.validation_windows.starts, few.validation_windows.starts)
    assert places[0] == 0
    assert places[-1] == len(everything.validation_windows) - 1
    assert np.ptp(np.diff(places)) <= 1
    assert torch.equal(few.probe_batch(2)[0], corpus(tmp_path, seed=1).probe_batch(2)[0])


def test_state_is_the_exact_sample(tmp_path):
    data = corpus(tmp_path)
    loader = data.train_dataloader()
    epoch = len(loader)
    for stop in (0, 3, epoch - 1):
        loader = data.train_dataloader()
        iterator = iter(loader)
        for _ in range(stop):
            next(iterator)
        state = loader.state_dict()
        resumed = data.train_dataloader()
        resumed.load_state_dict(state)
        rest, expected = list(resumed), list(iterator)
        assert len(rest) == len(expected) == epoch - stop
        assert all(torch.equal(a[0], b[0]) for a, b in zip(rest, expected, strict=True))


def test_each_pass_has_an_order_of_its_own(tmp_path):
    loader = corpus(tmp_path).train_dataloader()
    first, second = list(loader), list(loader)
    assert not all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    assert sorted(map(tuple, torch.cat([a[0] for a in first]).tolist())) == sorted(
        map(tuple, torch.cat([a[0] for a in second]).tolist())
    )
    # at the end of a pass the rest of it is empty, and the next one follows
    loader = corpus(tmp_path).train_dataloader()
    iterator = iter(loader)
    for _ in range(len(loader)):
        next(iterator)
    resumed = corpus(tmp_path).train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    assert list(resumed) == []
    assert all(torch.equal(a[0], b[0]) for a, b in zip(resumed, second, strict=True))


def test_prior_loss_is_the_cross_entropy_of_the_training_frequencies(tmp_path):
    # windows of 10 at every 9th token cover 892 of the 900 training tokens, 297 of them "b"; validation is "b" alone
    file = tmp_path / "text.txt"
    file.write_text("aab" * 300 + "b" * 100)
    data = TextCorpus(str(file), sequence_length=9, split_blocks=1, batch_size=2)
    assert data.prior_loss() == pytest.approx(-np.log((297 + 1) / (892 + 256)))


def test_tokens_are_small(tmp_path):
    data = corpus(tmp_path)
    data.setup()
    assert data.train_windows.tokens.dtype == np.uint8


def test_character_vocabulary_comes_from_the_corpus(tmp_path):
    data = corpus(tmp_path, vocabulary=CharacterVocabulary())
    data.setup()
    assert data.vocabulary.size == len(set((tmp_path / "corpus.txt").read_text()))


def test_python_files_are_sorted_source_without_tests():
    files = python_files()
    assert files == python_files()
    assert len(files) > 100
    assert not any({"test", "tests", "idle_test", "site-packages"} & set(path.parts[-3:]) for path in files)


def test_default_corpus():
    data = TextCorpus()
    summary = data.summary()
    assert summary["tokens"] > 5_000_000
    assert len(summary["sha256"]) == 64
    assert summary["python"]


def test_paths(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("a.txt", "b/c.txt", "b/d.md", ".hidden/e.txt"):
        (tmp_path / name).write_text(name * 100)

    def names(path):
        return [found.relative_to(tmp_path).as_posix() for found in matching_files(str(path))]

    assert names(tmp_path) == ["a.txt", "b/c.txt", "b/d.md"]
    assert names(tmp_path / "**/*.txt") == ["a.txt", "b/c.txt"]
    assert names(tmp_path / "a.txt") == ["a.txt"]


def test_broken_files_are_named_and_not_fatal(tmp_path):
    corpus(tmp_path)
    (tmp_path / "broken.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "binary.bin").write_bytes(b"a\0b")
    summary = corpus(tmp_path, path=str(tmp_path)).summary()
    assert summary["files"] == 1
    assert summary["skipped"] == 2
    assert summary["skipped_files"] == ["binary.bin", "broken.txt"]


def test_missing_path(tmp_path):
    with pytest.raises(ValueError, match=r"data\.path .*none\.txt' is not found.*give"):
        TextCorpus(str(tmp_path / "none.txt")).setup()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"data\.path .* a folder without files"):
        TextCorpus(str(tmp_path / "empty")).setup()


def test_empty_corpus(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match=r"data\.path .*holds no text: 1 files"):
        TextCorpus(str(tmp_path / "empty.txt")).setup()


def test_corpus_shorter_than_a_sequence(tmp_path):
    (tmp_path / "short.txt").write_text("word " * 100)
    with pytest.raises(
        ValueError, match=r"data\.sequence_length is 256.*500 tokens.*lower data\.sequence_length or data\.split_blocks"
    ):
        TextCorpus(str(tmp_path / "short.txt")).setup()
    with pytest.raises(ValueError, match="validation parts of 50 tokens"):
        TextCorpus(str(tmp_path / "short.txt"), sequence_length=60, split_blocks=1).setup()


def test_fewer_windows_than_a_batch(tmp_path):
    with pytest.raises(ValueError, match=r"data\.batch_size is 5000"):
        corpus(tmp_path, batch_size=5000).train_dataloader()


@pytest.mark.parametrize(
    "change",
    [{"sequence_length": 0}, {"batch_size": 0}, {"stride": 0}, {"split_blocks": 0}, {"validation_fraction": 1.0}],
)
def test_refuses(tmp_path, change):
    with pytest.raises(ValueError, match=rf"data\.{next(iter(change))}"):
        corpus(tmp_path, **change)


def test_another_corpus_or_seed_does_not_resume(tmp_path):
    data = corpus(tmp_path, seed=1)
    data.setup()
    state = data.state_dict()
    with pytest.raises(ValueError, match=r"data\.seed"):
        corpus(tmp_path, seed=2).load_state_dict(state)
    with pytest.raises(ValueError, match=r"data\.path"):
        data.load_state_dict(state | {"sha256": "0"})
    corpus(tmp_path, seed=1).load_state_dict(state)
