"""`python -m recipes.bench` runs its whole path on tiny sizes, and its numbers mean what they are called."""

import csv
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from PIL import Image

from encoders.benchmark.rounds import CannotMeasure
from encoders.views import Views
from recipes import bench
from recipes.benchmark import evaluation, loading, reading, training_step
from recipes.benchmark.settings import Settings
from recipes.configuration import read
from recipes.data.glyph_pages import GlyphPages
from recipes.documents import Corpus
from recipes.evaluate import main as evaluate
from recipes.modules import OCR
from recipes.reading.reader import Reading

ROOT = Path(__file__).parents[2]
TEXT = "\n".join(topics.values())
FEW = Settings(steps=2, warm_up=1, loading_steps=3, rounds=3)


def written(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def slower(method, seconds: float):
    """The same, after so long."""

    def slow(self, *arguments, **more):
        time.sleep(seconds)
        return method(self, *arguments, **more)

    return slow


def test_the_training_step_is_timed_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training_step, "SHAPES", ((16, 1),))
    monkeypatch.setattr(training_step, "BATCH", 1)
    monkeypatch.setattr(training_step, "SEQUENCE", 8)
    assert bench.main(["--parts", "step", "--steps", "2", "--warm-up", "0", "--output", str(tmp_path)]) == 0
    rows = written(tmp_path / "training_step.csv")
    assert list(rows[0]) == list(written(ROOT / "results/bench/training_step.csv")[0])
    assert {"residual", "mhc", "hc"} <= {row["variant"] for row in rows}
    for row in rows:
        assert float(row["step_ms_p10"]) <= float(row["step_ms"]) <= float(row["step_ms_p90"])
        assert float(row["ratio"]) > 0
        assert row["torch"] == torch.__version__
        assert row["commit"]
    assert rows[0]["ratio"] == "1.0"
    assert "mHC's training step over the plain residual's" in capsys.readouterr().out


def test_the_wait_for_kept_pages_is_a_small_part_of_the_step(tmp_path, monkeypatch):
    (tmp_path / "words.txt").write_text(TEXT)
    tree = read(ROOT / "ablations/ocr2_tiny_stage3.yaml").tree
    tree["data"]["init_args"] |= {
        "size": 32, "batch_size": 4, "validation_batches": 1, "path": str(tmp_path / "words.txt"), "workers": 1,
    }  # fmt: skip
    threads = torch.get_num_threads()
    monkeypatch.setattr(OCR, "training_step", slower(OCR.training_step, 0.4))
    row = loading.measure("stage", tree, FEW)
    assert set(row) <= set(loading.COLUMNS)
    # the worker reads while the step is taken
    assert row["step_ms"] >= 400 + row["wait_ms"]
    assert 0 < row["share_percent"] < 25
    assert row["wait_ms"] <= row["wait_ms_longest"]
    assert (row["steps"], row["steps_per_epoch"], row["workers"], row["threads"]) == (3, 8, 1, 1)
    assert row["cached_pages"] == 32 + 4
    assert row["cache_seconds"] > 0
    assert torch.get_num_threads() == threads


def test_pages_that_are_slow_to_draw_are_waited_for(monkeypatch):
    tree = read(ROOT / "ablations/encoders.yaml").tree
    tree["data"]["init_args"] |= {"batch_size": 2}
    quick = loading.measure("glyphs", tree, FEW)
    monkeypatch.setattr(GlyphPages, "page", slower(GlyphPages.page, 0.2))
    monkeypatch.setattr(OCR, "training_step", slower(OCR.training_step, 0.2))
    found = loading.measure("glyphs", tree, FEW)
    assert (found["workers"], found["batch"]) == (0, 2)
    assert "cached_pages" not in found
    # two pages of 200 ms, then a step of 200 ms and what it takes besides
    assert found["wait_ms"] >= 400
    assert found["step_ms"] >= found["wait_ms"] + 200
    assert 40 < found["share_percent"] < 85
    assert found["share_percent"] > quick["share_percent"]


def test_goals_of_loading_are_told_one_by_one():
    rows = [{"configuration": name, "share_percent": share} for name, share in (("one", 4.9), ("two", 5.0))]
    first, second = loading.goals(rows).splitlines()
    assert first.startswith("  reached ")
    assert first.endswith("data loading below 5 % of the training step of one: 4.90 %")
    assert second.startswith("  not reached ")


@pytest.fixture(scope="module")
def reader():
    return reading.small_reader(Views(global_size=128, crop_size=64), new_tokens=3)


def test_reading_is_compared_by_batch_size(reader):
    images = [Image.new("RGB", (100, 140), (value, 0, 0)) for value in range(8)]
    rows = list(reading.compare(reader, images, 3))
    assert [row["batch_size"] for row in rows] == [1, 2, 4, 8]
    assert rows[0]["over_batch_1"] == rows[0]["over_batch_1_p90"] == 1
    for row in rows:
        assert set(row) <= set(reading.COLUMNS)
        assert (row["pages"], row["new_tokens"], row["rounds"], row["crops"]) == (8, 3, 3, 6)
        assert row["ms_per_page_p10"] <= row["ms_per_page"] <= row["ms_per_page_p90"]
        assert row["pages_per_s"] == pytest.approx(1e3 / row["ms_per_page"])
        assert row["new_tokens_per_s"] == pytest.approx(3 * row["pages_per_s"])
    reading.table(rows)
    assert "at batch size" in reading.goals(rows)


def test_a_text_that_ends_early_is_no_measurement(reader, monkeypatch):
    monkeypatch.setattr(type(reader), "read", lambda *given: [Reading("", 1, ended=True)])
    with pytest.raises(CannotMeasure, match="ended a text early"):
        reading.read_all(reader, [Image.new("RGB", (8, 8))], 1)


def test_perfect_predictions_have_perfect_scores(tmp_path):
    # one in ten is a newspaper's
    shape = evaluation.write_pages(tmp_path, 10, Corpus(TEXT), slips=0)
    assert shape["tables"] > 0
    seconds, scores = evaluation.evaluate(tmp_path)
    assert seconds > 0
    assert scores == {name: 1.0 if "teds" in name else 0.0 for name in evaluation.SCORES}


def test_predictions_with_slips_have_scores_in_between(monkeypatch):
    corpus, taken = Corpus(TEXT), iter((1.0, 2.0, 6.0))

    def here(folder: Path, label: str) -> tuple[float, dict[str, float]]:
        given = ["--predictions", "predictions", "--ground-truth", "truth.json", "--output", "scores.json"]
        assert evaluate([part if part.startswith("--") else str(folder / part) for part in given]) == 0
        return next(taken), evaluation.scores_of(folder)

    monkeypatch.setattr(evaluation.Corpus, "read", lambda: corpus)
    monkeypatch.setattr(evaluation, "evaluate", here)
    (row,) = evaluation.rows(Settings(pages=6))
    assert set(row) <= set(evaluation.COLUMNS)
    assert (row["pages"], row["seconds"], row["pages_per_s"], row["rounds"]) == (6, 2.0, 3.0, 3)
    for name in evaluation.SCORES:
        assert 0 < row[name] < 1, name
    assert row["table_teds"] < row["table_teds_structure"]
    evaluation.table([row])
    assert "6 pages scored in less than 120 s by 2 processes: 2.00" in evaluation.goals([row])


def test_slips_are_the_pages_own():
    text = "# A title\n\nSome words of a text.\n\n<table><tr><td>one</td><td>two</td></tr></table>" * 20
    assert evaluation.perturbed(text, 1) == evaluation.perturbed(text, 1)
    assert evaluation.perturbed(text, 1) != evaluation.perturbed(text, 2)
    assert evaluation.perturbed(text, 1, slips=0) == text


def test_the_time_of_an_evaluation_is_the_same_with_tex_and_without(tmp_path):
    evaluation.write_pages(tmp_path, 2, Corpus(TEXT))
    evaluation.evaluate(tmp_path)
    assert json.loads((tmp_path / "scores.json").read_text())["left_out"] == ["CDM is left out: --no-cdm was given"]


def test_an_evaluation_that_fails_is_told(tmp_path):
    with pytest.raises(CannotMeasure, match=r"recipes\.evaluate ended with 2: error: --ground-truth"):
        evaluation.evaluate(tmp_path)


def test_a_part_that_cannot_run_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert bench.main(["--parts", "loading", "--output", "out"]) == 2
    told = capsys.readouterr()
    assert "ocr2_tiny_stage1.yaml: no such file" in told.err
    assert "nothing was measured" in told.out
    assert not Path("out").exists()


def test_settings_have_their_defaults_in_one_place(tmp_path, monkeypatch, capsys):
    given: list[Settings] = []

    @dataclass(frozen=True)
    class Others(Settings):
        steps: int = 31
        warm_up: int = 6
        loading_steps: int = 241
        rounds: int = 7
        pages: int = 1356

    monkeypatch.setattr(bench, "Settings", Others)
    monkeypatch.setattr(reading, "rows", lambda settings: given.append(settings) or iter(()))
    monkeypatch.setattr(reading, "table", str)
    monkeypatch.setattr(reading, "goals", str)
    assert bench.main(["--parts", "reading", "--output", str(tmp_path)]) == 0
    assert given == [Others()]
    with pytest.raises(SystemExit):
        bench.main(["--help"])
    told = capsys.readouterr().out
    assert re.findall(r"\(default (\d+)\)", " ".join(told.split())) == ["31", "6", "241", "7", "1356"]


@pytest.mark.parametrize("given", [["--steps", "1"], ["--rounds", "2"], ["--pages", "0"], ["--parts", "nothing"]])
def test_bad_arguments_are_refused(given):
    with pytest.raises(SystemExit) as refused:
        bench.main(given)
    assert refused.value.code == 2
