"""Reports made from folders of cells: files, tables, robustness, comparisons and the command line."""

import math
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from cells import write_ablation, write_cell, write_plan

from recipes.report import main, write_report
from recipes.reports.analysis import analyse
from recipes.reports.compare import write_comparison
from recipes.reports.format import table
from recipes.reports.markdown import report
from recipes.reports.reading import read_ablation

PICTURES = ("loss.png", "gain_by_depth.png", "gain_by_step.png", "cost.png")
NEEDED = (
    "variant", "seed", "status", "steps", "val_loss", "params", "flops_per_token", "step_ms", "tokens_per_s",
    "peak_memory_mb", "gain_forward", "gain_backward", "gain_forward_max",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A whole ablation, reported once; HC diverges at a seed and mHC fails at another."""
    folder = write_ablation(tmp_path_factory.mktemp("results") / "mhc_vs_hc")
    write_cell(
        folder, "hc", 2, status="diverged", steps=120, loss=40.0, gain=3e5, backward=2e4,
        record={"reason": "composite gain 3e5 over 1e5"},
    )  # fmt: skip
    write_cell(folder, "mhc", 1, status="failed", steps=30, record={"error": "RuntimeError: out of memory"})
    write_report(folder)
    return folder


def text_of(folder: Path, at: str = "steps") -> str:
    """The report's text, without its pictures."""
    return report(analyse(read_ablation(folder), at), [], [])


def test_pictures_are_pictures(made):
    for name in PICTURES:
        pixels = matplotlib.image.imread(made / name)[..., :3]
        assert min(pixels.shape[:2]) > 400
        assert len(np.unique(pixels[::3, ::3].reshape(-1, 3), axis=0)) > 50, f"{name} is all but empty"
        assert f"]({name})" in (made / "report.md").read_text()
    assert not list(made.glob(".*")), "a temporary file was left"


def test_summary_has_a_row_per_ended_cell(made):
    rows = pd.read_csv(made / "summary.csv")
    assert list(rows.columns[:13]) == list(NEEDED)
    assert {"gain_backward_max", "tokens", "seconds", "shared", "reason", "error"} <= set(rows.columns)
    assert len(rows) == 9
    row = rows[(rows.variant == "hc") & (rows.seed == 1)].iloc[0]
    assert (row.status, row.steps, row.params, row.tokens) == ("finished", 200, 500_000, 204_800)
    assert (row.gain_forward, row.gain_forward_max) == (22.0, pytest.approx(24.2))
    diverged, failed = (rows[rows.status == status].iloc[0] for status in ("diverged", "failed"))
    assert (diverged.variant, diverged.steps, diverged.reason) == ("hc", 120, "composite gain 3e5 over 1e5")
    assert (failed.variant, failed.error) == ("mhc", "RuntimeError: out of memory")
    assert math.isnan(failed.val_loss)


def test_report_says_what_it_must(made):
    text = (made / "report.md").read_text()
    for line in (
        "Does the manifold constraint hold the signal gain where HC lets it grow?",
        "`python -m recipes.fit --config ablations/mhc_vs_hc.yaml`",
        "- hc/seed-2: diverged at step 120 (composite gain 3e5 over 1e5)",
        "- mhc/seed-1: failed at step 30 (RuntimeError: out of memory)",
        "Budget: parameters matched (spread 0.00%); tokens equal",
        "- commit: `0123456789ab`",
        "torch 2.13.0",
        "- Python: 3.11.7",
    ):
        assert line in text
    assert str(made.parent) not in text
    rows = [[item.strip() for item in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| mhc")]
    loss = next(row for row in rows if row[1:5] == ["2", "2", "0", "1"])
    assert loss[5] == "2.4660 ± 0.0085"  # 2.460 and 2.472
    difference = next(row for row in rows if row[0] == "mhc - residual")
    assert difference[1:3] == ["2", "-0.0240"]  # -.020 and -.028


def test_numbers_fall_back_on_metrics(tmp_path):
    folder = write_plan(tmp_path / "a")
    missing = dict.fromkeys(("val_loss", "gain_forward", "gain_backward", "gain_forward_max"))
    write_cell(folder, "hc", 0, loss=2.25, gain=8.0, backward=4.0, record=missing)
    cell = read_ablation(folder).cells[0]
    assert cell.value("val_loss") == 2.25
    assert cell.value("gain_forward") == cell.value("gain_forward_max") == 8.0
    assert cell.value("gain_backward") == 4.0


def test_torn_and_broken_files_are_named_not_fatal(tmp_path):
    folder = write_ablation(tmp_path / "a")
    with (folder / "hc/seed-0/metrics.csv").open("a") as file:
        file.write("junk\n200,val/loss,9.9\n200,val/loss,2.44\n200,val/lo")
    (folder / "hc/seed-1/status.json").write_text('{"status": "fini')
    (folder / "mhc/seed-0/environment.json").write_text("[]")
    (folder / "mhc/seed-1/config.yaml").write_text("a: [")
    (folder / "mhc/seed-2/metrics.csv").unlink()
    (folder / "residual/seed-0/cell.json").unlink()
    ablation = read_ablation(folder)
    assert ablation.cells[3].series("val/loss").loc[200] == 2.44  # the last of a step counts
    text = text_of(folder)
    assert "6 files could not be read wholly:" in text
    for name in (
        "hc/seed-0/metrics.csv: 2 torn or unreadable lines left out", "hc/seed-1/status.json: cannot be read",
        "mhc/seed-0/environment.json", "mhc/seed-1/config.yaml", "mhc/seed-2/metrics.csv: missing",
        "residual/seed-0/cell.json: missing",
    ):  # fmt: skip
        assert f"- {name}" in text
    assert "- hc/seed-1: unreadable" in text
    assert len(ablation.summary()) == 8


def test_unfinished_and_missing_cells_are_listed(tmp_path):
    folder = write_ablation(tmp_path / "a", seeds=2)
    write_cell(folder, "mhc", 1, status="interrupted", steps=50)
    text = text_of(folder)
    assert "- mhc/seed-1: interrupted at step 50" in text
    assert "- hc/seed-2: not run" in text
    assert "| mhc | 1/3 |" in text
    assert set(read_ablation(folder).summary().status) == {"finished"}


def test_shared_timings_and_unequal_budgets_are_said(tmp_path):
    folder = write_plan(tmp_path / "a")
    for seed in (0, 1):
        write_cell(folder, "residual", seed, shared=True)
        more = {"params": 600_000, "tokens": 300_000}
        corpus = {"path": "/home/me/text", "tokens": 12, "pages_kept_in": "/home/me/.cache/pages/1c3"}
        environment = {"commit": "fedcba9876543210", "diff": "+x", "data": corpus}
        write_cell(folder, "hc", seed, record=more, matched={"model.hidden": 250}, environment=environment)
    text = text_of(folder)
    assert "parameters not matched (spread 20.00%); tokens not equal (spread 46.48%)" in text
    assert "Matched by `model.hidden`: 250 for hc." in text
    assert "2 of 4 cells ran beside others" in text
    assert "the variants' parameters differ by 20.0%" in text
    assert "commit: **the cells differ**" in text
    assert "`fedcba987654` with uncommitted changes (diff " in text
    assert "path text, tokens 12, pages_kept_in 1c3" in text
    assert "/home/me" not in text


def test_what_was_not_measured_is_left_out_and_said(tmp_path):
    folder = write_plan(tmp_path / "a")
    none = dict.fromkeys(("gain_forward", "gain_backward", "gain_forward_max", "gain_backward_max", "step_ms"))
    for variant in ("residual", "hc"):
        cell = write_cell(folder, variant, 0, record=none)
        rows = (cell / "metrics.csv").read_text().splitlines(keepends=True)
        (cell / "metrics.csv").write_text("".join(row for row in rows if "gain" not in row))
    (folder / "gain_by_step.png").write_bytes(b"of an earlier run")
    assert "gain" not in write_report(folder)
    text = (folder / "report.md").read_text()
    assert "- gain_by_depth.png: no signal gain was measured" in text
    assert "- cost.png: no step time of the baseline residual was measured" in text
    assert "## Signal gain" not in text
    assert (folder / "loss.png").exists()
    assert not (folder / "gain_by_step.png").exists()


def test_equal_budgets_interpolate_linearly(tmp_path):
    folder = write_plan(tmp_path / "a")
    for seed in (0, 1):
        fast = {"step_ms": 50.0}
        write_cell(folder, "residual", seed, steps=100, total=100, loss=3.0, record=fast, validate_every=50)
        slow = {"step_ms": 100.0, "flops_per_token": 6.2e6}
        cell = write_cell(folder, "hc", seed, steps=100, total=100, loss=2.0, record=slow, metrics=False)
        (cell / "metrics.csv").write_text("step,metric,value\n40,val/loss,4.0\n80,val/loss,3.0\n100,val/loss,2.0\n")
    ablation = read_ablation(folder)
    assert analyse(ablation, "steps").losses == {"residual": {0: 3.0, 1: 3.0}, "hc": {0: 2.0, 1: 2.0}}
    time = analyse(ablation, "time")
    assert time.budget == pytest.approx(5.0)  # 100 steps of 50 ms: step 50 of hc, a quarter on from 4.0 to 3.0
    assert time.losses["hc"][0] == pytest.approx(3.75)
    flops = analyse(ablation, "flops")
    assert flops.budget == pytest.approx(100 * 1024 * 3.1e6)
    assert flops.losses["hc"][1] == pytest.approx(3.75)
    assert "2 of 4 losses are interpolated" in flops.notes[0]
    assert "at 5 seconds of training" in text_of(folder, "time")


def test_several_axes_compare_along_one_at_a_time(tmp_path):
    yaml = "# Q?\nablation:\n  seeds: [0, 1]\n  axes: {depth: {d2: {}, d4: {}}, topology: {hc: {}, mhc: {}}}\n"
    folder = write_plan(tmp_path / "a", yaml)
    for seed in (0, 1):
        for depth in ("d2", "d4"):
            for topology in ("hc", "mhc"):
                axes = {"depth": depth, "topology": topology}
                write_cell(folder, f"{depth}+{topology}", seed, axes=axes, loss=2.5 + 0.1 * seed * (depth == "d4"))
    ablation = read_ablation(folder)
    pairs = [(d.variant, d.reference) for d in analyse(ablation).differences]
    assert pairs == [("d4+hc", "d2+hc"), ("d4+mhc", "d2+mhc"), ("d2+mhc", "d2+hc"), ("d4+mhc", "d4+hc")]
    assert "d4+mhc - d4+hc" in text_of(folder)
    rows = ablation.summary()
    assert list(rows[rows.variant == "d4+mhc"][["depth", "topology"]].iloc[0]) == ["d4", "mhc"]


def test_comparison_matches_variants_at_one_budget(tmp_path):
    one = write_ablation(tmp_path / "one")
    two = write_ablation(tmp_path / "two", steps=100, total=100)
    write_cell(two, "late", 0)
    text, path = write_comparison([one, two])
    assert path == tmp_path / "one-vs-two" / "comparison.md"
    assert "at 100 optimizer steps" in text
    assert sum(line.startswith("| mhc |") for line in text.splitlines()) == 2
    assert "| late | two | 1/1 |" in text
    report = path.read_text()
    assert "mhc in two - mhc in one | paired by seed |" in report
    assert matplotlib.image.imread(path.with_name("comparison.png")).size > 1e5
    config = two / "mhc/seed-0/config.yaml"
    config.write_text(config.read_text().replace("path: null", "path: other.txt"))
    report = write_comparison([one, two], output=tmp_path / "else")[1].read_text()
    assert "mhc in two - mhc in one | Welch |" in report
    assert "- mhc: `data.path` is `None` in one, `other.txt` in two" in report


def test_command_line(tmp_path, capsys):
    folder = write_ablation(tmp_path / "a", seeds=1)
    assert main([str(folder), "--at", "flops"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Over 1 seed")
    assert str(folder / "report.md") in out
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, remedy in ((tmp_path / "none", "no such folder"), (empty, "no cells")):
        assert main([str(path)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert str(path) in error
        assert remedy in error
        assert "run the ablation first" in error
    assert not list(empty.iterdir())


def test_starts_without_torch():
    code = "import sys, recipes.report; print({'torch', 'lightning', 'matplotlib.pyplot'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_table_escapes_bars():
    assert table(["a"], [["x|y"]]).splitlines()[-1] == "| x\\|y |"


def test_times_of_a_machine_with_other_work_are_not_compared(tmp_path):
    folder = write_plan(tmp_path / "small")
    same = {"params": 1000, "flops_per_token": 6000.0}
    for seed, step in enumerate((80.0, 82.0, 81.0)):
        # as many FLOPs, of operations that take longer: no other work
        write_cell(folder, "residual", seed, record=same | {"step_ms": step})
        write_cell(folder, "hc", seed, record=same | {"step_ms": 2 * step})
    assert analyse(read_ablation(folder)).unsteady == pytest.approx(82 / 80)
    write_cell(folder, "hc", 2, record=same | {"step_ms": 340.0})
    write_report(folder)
    text = (folder / "report.md").read_text()
    assert "differ by a factor of up to 2.1: the machine had other work, and no times here compare" in text
    assert "| step ms |" not in text
    assert "- cost.png: step times of cells that cost the same differ by a factor of up to 2.1" in text
    assert not (folder / "cost.png").exists()


def test_one_variant_has_no_picture_of_costs(tmp_path):
    folder = write_plan(tmp_path / "small")
    write_cell(folder, "residual", 0)
    write_report(folder)
    assert "- cost.png: one variant alone has nothing to be compared with" in (folder / "report.md").read_text()


def test_weights_that_round_steps_off_are_told_of(tmp_path):
    folder = write_ablation(tmp_path / "results" / "mhc_vs_hc")
    assert "too coarse" not in report(analyse(read_ablation(folder)), [], [])
    for seed, share in enumerate((0.03, 0.041, 0.05)):
        write_cell(folder, "hc", seed, loss=2.5, record={"lost_share": share})
        write_cell(folder, "mhc", seed, loss=2.5, record={"lost_share": 0.001})
    text = report(analyse(read_ablation(folder)), [], [])
    assert "**4.1 % of hc's weights were too coarse for a step of a tenth of the learning rate**" in text
    assert text.count("too coarse") == 1
