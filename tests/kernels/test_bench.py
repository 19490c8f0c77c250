"""`python -m kernels.bench`: bytes against hand counts, a run without a GPU, goals."""

import csv
import tempfile
from pathlib import Path

import pytest
import torch

from kernels import bench
from kernels.benchmark import formulas, goals, measure
from kernels.benchmark.clock import Clock
from kernels.benchmark.formulas import BYTES, Size
from kernels.benchmark.record import Record, folder

C = 10**6  # so wide that coefficients beside it do not count


@pytest.mark.parametrize(
    ("operation", "forward", "backward"),
    [  # multiples of C at n = 4, those of kernels/README.md
        ("hyper_coefficients", 4, 8),
        ("aggregate", 5, 9),
        ("combine", 9, 14),
        ("combine_aggregate", 10, 15),
        ("two_launches", 14, 27),
        ("three_operations", 18, 31),
        ("prefix_attention", 4, 8),
    ],
)
def test_values_of_c_a_token(operation, forward, backward):
    per_token = Size(10**6, 4, C)
    for way, expected in ((False, forward), (True, backward)):
        found = BYTES[operation](per_token, way)
        assert found / (per_token.tokens * C * 2) == pytest.approx(expected, rel=2e-4)


def test_bytes_of_a_small_problem_by_hand():
    size = Size(tokens=3, n=2, width=5)
    # x 2 x 5, y 5 in bf16; post 2, res 4, pre + post + res 8 in fp32
    assert BYTES["sinkhorn"](size, False) == 3 * (4 + 4) * 4
    assert BYTES["sinkhorn"](size, True) == 3 * (4 + 4 + 4) * 4
    assert BYTES["aggregate"](size, False) == 3 * ((10 + 5) * 2 + 2 * 4)
    assert BYTES["aggregate"](size, True) == 3 * ((10 + 5 + 10) * 2 + (2 + 2) * 4)
    assert BYTES["combine"](size, False) == 3 * ((10 + 5 + 10) * 2 + 6 * 4)
    assert BYTES["combine"](size, True) == 3 * ((10 + 10 + 5 + 10 + 5) * 2 + 12 * 4)
    phi, rest = 10 * 8, 3 + 8
    assert BYTES["hyper_coefficients"](size, False) == 3 * (10 * 2 + 8 * 4) + (phi + rest) * 4
    assert BYTES["hyper_coefficients"](size, True) == 3 * (20 * 2 + 8 * 4) + 2 * (phi + rest) * 4
    assert BYTES["combine_aggregate"](size, False) == 3 * (30 * 2 + (6 + 8) * 4) + (phi + rest) * 4


def test_flops_are_those_that_the_counter_counts():
    size = Size(6, 3, 20)
    assert formulas.flops("combine", size, True) == 2 * 2 * (3 + 1) * 6 * 3 * 20
    assert formulas.flops("combine_aggregate", size, False) == 2 * (4 + 15 + 1) * 6 * 3 * 20


def test_a_tiny_run_writes_every_column(tmp_path, capsys):
    chosen = ["--operations", "aggregate", "prefix_attention", "--peers", "eager", "liger"]
    assert bench.main(["--quick", "--device", "cpu", *chosen, "--output", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "operations.csv").open()))
    assert list(rows[0]) == list(measure.COLUMNS)
    assert {(row["operation"], row["direction"]) for row in rows} == {
        (operation, way) for operation in ("aggregate", "prefix_attention") for way in ("forward", "backward")
    }
    for row in rows:
        assert row["device"] == "cpu"
        assert float(row["us"]) > 0
        assert float(row["over_eager"]) > 0
        assert float(row["percent_of_copy"]) > 0
    printed = capsys.readouterr()
    assert "goals: not measured" in printed.out
    assert "aggregate backward, 32 x 4 x 24" in printed.err


def test_a_trial_without_a_gpu_replaces_no_record(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert bench.main(["--quick", "--device", "cpu", "--operations", "aggregate", "--peers"]) == 0
    (written,) = tmp_path.rglob("operations.csv")
    assert written.parent.parent == tmp_path
    assert written.parent.name.startswith("trial-without-gpu-")
    assert f"written: {written}" in capsys.readouterr().out
    assert folder(None, "cuda") == Path("results/kernels")


def test_a_row_that_fails_says_why_and_the_run_goes_on(tmp_path, monkeypatch):
    plain = measure.build

    def broken(operation, size, *arguments):
        if size.n == 4:
            raise torch.OutOfMemoryError("no memory left\nmore")
        return plain(operation, size, *arguments)

    monkeypatch.setattr(measure, "build", broken)
    record = Record(tmp_path / "rows.csv", measure.COLUMNS)
    clock = Clock("cpu", runs=2)
    rows = measure.measure(clock, "reference", record, operations=["combine"], peers=(), quick=True, limit=60)
    assert [row["reason"] for row in rows] == ["OutOfMemoryError: no memory left"] * 2 + [""] * 2
    assert len(list(csv.DictReader(record.path.open()))) == 4
    assert not list(tmp_path.glob(".*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(tmp_path, capsys):
    assert bench.main(["--output", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert "no NVIDIA GPU" in printed.err
    assert not list(tmp_path.iterdir())


def test_goals_name_the_worst_size():
    def row(percent, tokens):
        return {
            "device": "cuda", "operation": "combine", "direction": "forward", "form": "", "n": 4, "tokens": tokens,
            "width": 1280, "us": 1.0, "percent_of_copy": percent,
        }  # fmt: skip

    text = goals.report([row(91.0, 4096), row(80.0, 16384)])
    line = next(line for line in text.splitlines() if "combine forward" in line)
    assert line.strip().startswith("not reached")
    assert "80 at 16384 x 1280 (1 of 2 sizes)" in line
    assert "  reached" in goals.report([row(91.0, 4096)])
    assert "not measured  aggregate forward" in text
