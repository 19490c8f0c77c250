"""`python -m mhc.bench`: a tiny run without a GPU."""

import csv

import pytest
import torch

from mhc import bench


def test_a_tiny_run_writes_a_row_for_every_variant(tmp_path, capsys):
    assert bench.main(["--device", "cpu", "--output", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "end_to_end.csv").open()))
    assert [row["variant"] for row in rows] == list(bench.VARIANTS)
    assert all(float(row["step_ms"]) > 0 and not row["reason"] for row in rows)
    assert float(rows[0]["overhead_percent"]) == 0
    assert "not measured" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(tmp_path, capsys):
    assert bench.main(["--output", str(tmp_path)]) == 2
    assert "no NVIDIA GPU" in capsys.readouterr().err


def test_the_formula_of_recomputed_memory():
    # 60 sublayers, n = 4: 75.9 C for what is rebuilt at the best L_r in reals, 6 or 7 in integers, and 60 C of outputs
    values = bench.recompute_formula(bench.SHAPES["27B"], 1, 1) / 2560
    assert values == 4 * 10 + 6 * 6 + 60
