"""The grid as processes: kills, failures and Ctrl-C leave what a second run completes."""

import contextlib
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from small_ablation import ABLATION, RUN, write

import recipes.report
from recipes.ablation import driver
from recipes.errors import UserError
from recipes.fit import main
from recipes.run import read_configuration

HC = "      hc: {model.init_args.topology: {class_path: mhc.HyperConnection, init_args: {streams: 2}}}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    return tmp_path


def accidents(*kinds: tuple[str, int, str]) -> str:
    """The run's YAML with something that befalls each (variant, step, kind)."""
    rows = "".join(
        f"    - {{class_path: accidents.Accident, init_args: {{variant: {name}, step: {step}, kind: {kind}}}}}\n"
        for name, step, kind in kinds
    )
    inline = "trainer: {max_steps: 12, val_check_interval: 6, accelerator: cpu}\n"
    assert inline in RUN
    block = f"trainer:\n  max_steps: 12\n  val_check_interval: 6\n  accelerator: cpu\n  callbacks:\n{rows}"
    return RUN.replace(inline, block)


def metrics(cell: Path) -> pd.Series:
    table = pd.read_csv(cell / "metrics.csv")
    assert not table.duplicated(["step", "metric"]).any()
    kept = ~table.metric.isin(["train/step_ms", "train/tokens_per_second"])
    return table[kept].set_index(["metric", "step"]).value.sort_index()


def status(cell: Path) -> dict:
    return json.loads((cell / "status.json").read_text())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> pd.Series:
    """The metrics of mHC as an ordinary run, in this process, which does nothing a second time."""
    topology = "{class_path: mhc.ManifoldHyperConnection, init_args: {streams: 2}}"
    plain = RUN.replace("{class_path: mhc.HyperConnection, init_args: {streams: 2}}", topology)
    told = io.StringIO()
    with contextlib.chdir(tmp_path_factory.mktemp("ordinary")), contextlib.redirect_stdout(told):
        write(Path(), "", plain).rename("ordinary.yaml")
        assert main(["--config", "ordinary.yaml"]) == 0
        run = Path("results/ordinary/run/seed-0")
        assert status(run)["status"] == "finished"
        written = (run / "metrics.csv").stat().st_mtime_ns
        told.truncate(0)
        assert main(["--config", "ordinary.yaml"]) == 0
        assert "finished already" in told.getvalue()
        assert (run / "metrics.csv").stat().st_mtime_ns == written
        return metrics(run)


def test_killed_and_failed_cells(folder, uninterrupted, capsys, monkeypatch):
    run = accidents(("mhc", 7, "kill"), ("residual", 3, "raise"))
    write(folder, ABLATION.replace("seeds: [0, 1]", "seeds: [0]\n  jobs: 3\n  threads: 2") + HC, run)
    results = folder / "results" / "small"

    assert main(["--config", "small.yaml"]) == 1
    told = capsys.readouterr().out
    assert "killed by SIGKILL" in told
    assert "the roof fell in" in told
    killed, failed, done = (results / name / "seed-0" for name in ("mhc", "residual", "hc"))
    assert status(killed)["status"] == "failed"
    assert "SIGKILL" in status(killed)["error"]
    assert status(failed)["status"] == "failed"
    assert "the roof fell in" in status(failed)["error"]
    assert "the roof fell in" in (failed / "log.txt").read_text()
    assert status(done)["status"] == "finished"
    assert json.loads((done / "environment.json").read_text())["threads"] == 2
    assert json.loads((done / "cell.json").read_text()) | {"baseline": None} == {
        "ablation": "small",
        "variant": "hc",
        "axes": {"topology": "hc"},
        "seed": 0,
        "question": "Do the topologies differ?",
        "baseline": None,
        "matched": None,
        "shared": True,
    }
    assert (results / "ablation.yaml").read_text() == (folder / "small.yaml").read_text()
    assert (results / "report.md").exists()
    written = (done / "metrics.csv").stat().st_mtime_ns

    monkeypatch.setattr(recipes.report, "write_report", lambda folder: "the answer")
    assert main(["--config", "small.yaml"]) == 0
    told = capsys.readouterr().out
    assert "1 of 3 cells have a result already" in told
    assert "mhc/seed-0: goes on from its checkpoint" in told
    assert "residual/seed-0: starts" in told
    assert "the answer\nresults/small/report.md\ntensorboard --logdir results/small" in told
    assert (done / "metrics.csv").stat().st_mtime_ns == written
    assert status(killed)["status"] == status(failed)["status"] == "finished"
    assert status(killed)["resumed_at"] == [5]
    assert status(failed)["resumed_at"] == []
    assert status(killed)["error"] is None if "error" in status(killed) else True
    pd.testing.assert_series_equal(metrics(killed), uninterrupted, check_exact=True)


def test_interrupt(folder, uninterrupted, capsys, monkeypatch):
    """Ctrl-C ends the cell after its step; the same command goes on from there."""
    monkeypatch.setattr(recipes.report, "write_report", lambda folder: "the answer")
    write(folder, ABLATION.replace("[0, 1]", "[0]"), accidents(("mhc", 7, "interrupt")))
    cell = folder / "results" / "small" / "mhc" / "seed-0"
    command = ["--config", "small.yaml", "--ablation.only", "mhc"]

    assert main(command) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert status(cell)["status"] == "interrupted"
    assert status(cell)["step"] == 8
    assert main(command) == 0
    assert status(cell)["status"] == "finished"
    assert status(cell)["resumed_at"] == [8]
    pd.testing.assert_series_equal(metrics(cell), uninterrupted, check_exact=True)


def test_two_drivers(folder, capsys):
    import fcntl

    write(folder)
    results = folder / "results" / "small"
    results.mkdir(parents=True)
    held = os.open(results, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert main(["--config", "small.yaml"]) == 2
    assert "another run of it is going on" in capsys.readouterr().err
    assert not list(results.iterdir())
    os.close(held)


def test_a_cell_that_cannot_be_removed_is_not_started_over(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    driver._remove(tmp_path / "missing")
    monkeypatch.setattr(driver.shutil, "rmtree", refuse)
    with pytest.raises(UserError, match=r"cannot be removed for --ablation\.restart: Permission denied"):
        driver._remove(tmp_path)


def test_a_result_stays_one_when_its_process_is_ended_after_it(tmp_path):
    cell = SimpleNamespace(status={"status": "finished"}, folder=tmp_path, name="mhc/seed-0")
    console = SimpleNamespace(ended=lambda cell: None)
    grid = driver.Grid(SimpleNamespace(open=[]), 1, 0, console)
    grid.signals = 1
    grid._end(cell, -15)
    assert not (tmp_path / "status.json").exists()
    cell.status = {"status": "running"}
    grid._end(cell, -15)
    assert status(tmp_path)["status"] == "interrupted"


def test_a_damaged_configuration_is_not_taken_for_none(tmp_path):
    assert read_configuration(tmp_path) == {}
    (tmp_path / "config.yaml").write_text("model: {width")
    with pytest.raises(UserError, match=r"config\.yaml: cannot be read .* --ablation.restart"):
        read_configuration(tmp_path)
