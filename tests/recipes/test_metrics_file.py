"""The metrics file survives kills and rewinds."""

import pytest

from recipes.loggers import MetricsFile


@pytest.fixture
def metrics(tmp_path) -> MetricsFile:
    logger = MetricsFile(str(tmp_path / "run"))
    for step in range(4):
        logger.log_metrics({"a": step / 3, "b": -step}, step)
    return logger


def lines(logger: MetricsFile) -> list[str]:
    return logger.path.read_text().splitlines()


def test_rows_are_long_and_exact(metrics):
    assert lines(metrics)[:4] == ["step,metric,value", "0,a,0.0", "0,b,0.0", "1,a,0.3333333333333333"]
    assert metrics.value("a", 1) == 1 / 3
    assert metrics.value("a", 9) is None


def test_each_call_is_on_disk(metrics):
    metrics.log_metrics({"c": 1.0}, 5)
    assert lines(metrics)[-1] == "5,c,1.0"


def test_rewind_keeps_the_rows_up_to_a_step(metrics):
    metrics.rewind(1)
    assert [line.split(",")[0] for line in lines(metrics)[1:]] == ["0", "0", "1", "1"]
    metrics.log_metrics({"a": 7.0}, 2)
    assert lines(metrics)[-1] == "2,a,7.0"
    metrics.rewind(-1)
    assert lines(metrics) == ["step,metric,value"]


def test_rewind_without_a_file(tmp_path):
    MetricsFile(str(tmp_path / "none")).rewind(3)
    assert not (tmp_path / "none").exists()


def test_rewind_is_whole_or_not_at_all(metrics, monkeypatch):
    before = lines(metrics)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        metrics.rewind(0)
    assert lines(metrics) == before
    assert [path.name for path in metrics.path.parent.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize("torn", ["3", "3,a", "3,a,0.", "3,a,0.25"])
def test_a_torn_last_line_is_cut(metrics, torn):
    with metrics.path.open("a") as file:
        file.write(torn)
    again = MetricsFile(metrics.save_dir)
    again.log_metrics({"a": 1.0}, 9)
    assert lines(again)[-2:] == ["3,b,-3.0", "9,a,1.0"]
    again.rewind(9)
    assert lines(again)[-2:] == ["3,b,-3.0", "9,a,1.0"]


def test_a_file_torn_in_its_header(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,me")
    logger = MetricsFile(str(tmp_path))
    logger.log_metrics({"a": 1.0}, 1)
    assert lines(logger) == ["step,metric,value", "1,a,1.0"]
