"""Bad input: one clear line, exit code 2, and nothing written."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from small_ablation import RUN, write

from recipes.fit import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(folder: Path, capsys, *arguments: str) -> str:
    """Run, and give the one line that it was refused with."""
    before, names = files(folder), sorted(folder.rglob("*"))
    code = main(["--config", "small.yaml", *arguments])
    told = capsys.readouterr()
    assert code == 2, told.err
    assert len(told.err.splitlines()) == 1, told.err
    assert told.err.startswith("error: ")
    assert len(told.err) < 420
    assert files(folder) == before
    assert sorted(folder.rglob("*")) == names
    return told.err


CONFIGURATIONS = {
    "unknown class": (
        ("mhc.ManifoldHyperConnection", "mhc.ManifoldHyperConection"),
        ("variant mhc", "model.init_args.topology", "mhc.ManifoldHyperConection", "did you mean", "ManifoldHyperConn"),
    ),
    "unknown module": (("mhc.Residual", "mhcc.Residual"), ("model.init_args.topology", "no module 'mhcc'")),
    "class of another kind": (
        ("class_path: mhc.Residual}", "class_path: torch.nn.Linear, init_args: {in_features: 2}}"),
        ("model.init_args.topology", "torch.nn.Linear", "ResidualTopology"),
    ),
    "unknown optimizer": (("torch.optim.AdamW", "torch.optim.AdmW"), ("model.init_args.optimizer", "AdamW")),
    "wrong argument": (
        ("init_args: {streams: 2}}}\nmodel", "init_args: {strems: 2}}}\nmodel"),
        ("model.init_args.topology", "strems", "did you mean 'streams'?"),
    ),
    "wrong argument of the model": (("width: 16", "widht: 16"), ("model", "widht", "did you mean 'width'?")),
    "wrong argument of the data": (("batch_size: 4", "bach_size: 4"), ("data", "bach_size", "'batch_size'")),
    "wrong argument of the trainer": (("max_steps: 12", "max_step: 12"), ("trainer", "max_step", "'max_steps'")),
    "wrong type": (("width: 16", "width: wide"), ("model.init_args.width", "int", "wide")),
    "wrong type in a factory": (
        ("ManifoldHyperConnection, init_args: {streams: 2}", "ManifoldHyperConnection, init_args: {streams: many}"),
        ("model.init_args.topology.init_args.streams", "int", "many"),
    ),
    "missing argument": (("    width: 16\n", ""), ("model.init_args.width", "missing")),
    "topology: null": (
        (
            "residual: {model.init_args.topology: {class_path: mhc.Residual}}",
            "residual: {model.init_args.topology: null}",
        ),
        ("variant residual", "model.init_args.topology", "null"),
    ),
    "unknown key": (("signal_gain:", "signal_gian:"), ("signal_gian",)),
    "YAML syntax": (("trainer: {max_steps: 12,", "trainer: {max_steps: 12, ["), ("small.yaml", "line", "YAML")),
    "not YAML": ((RUN, "- a\n- b\n"), ("small.yaml", "line")),
    "heads": (("heads: 2", "heads: 3"), ("model.init_args.attention", "width 16", "heads 3")),
    "streams: 0": (
        ("ManifoldHyperConnection, init_args: {streams: 2}", "ManifoldHyperConnection, init_args: {streams: 0}"),
        ("variant mhc", "model.init_args.topology", "streams", "0"),
    ),
    "missing corpus": (("corpus.txt", "corpse.txt"), ("small.yaml", "data.path", "corpse.txt")),
    "short corpus": (("sequence_length: 16", "sequence_length: 60000"), ("data.sequence_length", "60000")),
    "sequence_length: 0": (("sequence_length: 16", "sequence_length: 0"), ("data.sequence_length", "at least 1")),
    "small vocabulary": (("vocabulary_size: 256", "vocabulary_size: 8"), ("vocabulary_size", "8", "256")),
    "trainer that cannot be": (("accelerator: cpu", "accelerator: cpu, devices: 0"), ("trainer",)),
    "guard": (("checkpoint: {", "divergence_guard: {max_gain: 0.5}\ncheckpoint: {"), ("divergence_guard", "max_gain")),
    "axis without its path": (
        (
            "topology:\n      residual: {model.init_args.topology:",
            "topology:\n      residual: {model.init_args.topolgy.x:",
        ),
        ("variant residual", "model.init_args.topolgy", "did you mean 'topology'?"),
    ),
    "axis with a wrong last key": (
        ("residual: {model.init_args.topology: {class_path: mhc.Residual}}", "residual: {model.init_args.widht: 3}"),
        ("variant residual", "widht", "'width'"),
    ),
    "same name twice": (("      mhc: {", "      residual: {"), ("small.yaml", "line 8", "'residual'", "line 7")),
    "same name twice, as number": (
        ("axes:\n", "axes:\n    width:\n      1: {model.init_args.width: 16}\n      '1': {model.init_args.width: 8}\n"),
        ("line", "'1'"),
    ),
    "name that YAML reads as a value": (("      mhc: {", "      no: {"), ("ablation.axes.topology", "quote it")),
    "name with a slash": (("      mhc: {", "      a/b: {"), ("ablation.axes.topology", "a/b")),
    "two axes with one path": (
        ("axes:\n", "axes:\n    other:\n      a: {model.init_args.topology: {class_path: mhc.Residual}}\n"),
        ("topology", "other", "model.init_args.topology"),
    ),
    "unknown key of the ablation": (("  seeds:", "  sedes:"), ("ablation", "sedes", "'seeds'")),
    "seeds": (("seeds: [0, 1]", "seeds: [0, 0]"), ("ablation.seeds", "different")),
    "scale": (("  seeds:", "  scale: huge\n  seeds:"), ("ablation.scale", "cpu or gpu")),
    "jobs": (("  seeds:", "  jobs: 0\n  seeds:"), ("ablation.jobs", "whole number from 1")),
    "threads": (("  seeds:", "  threads: all\n  seeds:"), ("ablation.threads", "'all'")),
    "baseline": (("  seeds:", "  baseline: resid\n  seeds:"), ("ablation.baseline", "resid", "residual")),
    "matching a path that is not there": (
        ("  seeds:", "  match_parameters: model.init_args.feed_forward.init_args.hiden\n  seeds:"),
        ("ablation.match_parameters", "hiden"),
    ),
    "matching with what changes nothing": (
        ("  seeds:", "  match_parameters: data.init_args.batch_size\n  seeds:"),
        ("ablation.match_parameters", "does not grow"),
    ),
    "a GPU's work": (
        ("  seeds:", "  scale: gpu\n  seeds:"),
        ("scale: gpu", "--ablation.plan", "--trainer.accelerator"),
    ),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_configuration(folder, capsys, case):
    if case == "a GPU's work" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    (old, new), words = CONFIGURATIONS[case]
    path = write(folder)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    told = refused(folder, capsys)
    assert all(word in told for word in words), told


def test_empty_corpus(folder, capsys):
    write(folder)
    (folder / "corpus.txt").write_text("")
    assert "data.path" in refused(folder, capsys)


FLAGS = {
    ("--ablation.seeds", "x"): ("--ablation.seeds", "'x'"),
    ("--ablation.seeds=-1",): ("--ablation.seeds", "'-1'"),
    ("--ablation.seeds",): ("--ablation.seeds",),
    ("--ablation.jobs", "0"): ("--ablation.jobs", "'0'"),
    ("--ablation.jobs", "two"): ("--ablation.jobs", "'two'"),
    ("--ablation.only", "mch"): ("--ablation.only", "'mch'", "did you mean 'mhc'?"),
    ("--ablation.only", "mhc/seed-7"): ("--ablation.only", "0, 1"),
    ("--ablation.pln",): ("--ablation.pln", "--ablation.plan"),
    ("--trainer.max_step", "3"): ("max_step",),
    ("--model.widht", "32"): ("widht", "'width'"),
    ("--modell.width", "32"): ("--modell.width",),
    ("stray",): ("stray",),
    ("--seed_everything", "3"): ("--seed_everything", "--ablation.seeds"),
    ("--trainer.default_root_dir=x",): ("--trainer.default_root_dir", "--ablation.output"),
    ("--model.topology.streams", "3", "--ablation.only", "mhc"): ("streams", "--ablation.only"),
    ("--config", "other.yaml"): ("other.yaml",),
}


@pytest.mark.parametrize("arguments", FLAGS)
def test_flags(folder, capsys, arguments):
    write(folder)
    told = refused(folder, capsys, *arguments)
    assert all(word in told for word in FLAGS[arguments]), told


def test_no_configuration(folder, capsys):
    assert main([]) == 2
    assert "--config" in capsys.readouterr().err
    assert main(["--config", "smal.yaml"]) == 2
    assert "smal.yaml: no such file" in capsys.readouterr().err
    write(folder)
    assert main(["--config", "smal.yaml"]) == 2
    assert "did you mean 'small.yaml'?" in capsys.readouterr().err


def test_flags_of_an_ablation_for_an_ordinary_run(folder, capsys):
    write(folder, ablation="")
    assert "`ablation:`" in refused(folder, capsys, "--ablation.plan")


@pytest.mark.parametrize("place", ["/proc/nowhere", "corpus.txt/below"])
def test_folder_that_cannot_be_written(folder, capsys, place):
    write(folder)
    told = refused(folder, capsys, "--ablation.output", place)
    assert "cannot be written" in told
    assert place in told


def test_full_disk(folder, capsys, monkeypatch):
    write(folder)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 0))
    assert "disk is full" in refused(folder, capsys)


def cell(folder: Path, name: str, **fields) -> Path:
    from recipes.files import replace_json

    path = folder / name
    path.mkdir(parents=True)
    variant, seed = name.split("/")[-2:]
    about = {"ablation": "small", "variant": variant, "seed": int(seed.removeprefix("seed-"))} | fields
    replace_json(path / "cell.json", about)
    return path


def test_folder_of_another_ablation(folder, capsys):
    write(folder)
    cell(folder, "results/small/mhc/seed-0", ablation="other")
    for more in ((), ("--ablation.restart",)):
        told = refused(folder, capsys, *more)
        assert "results/small" in told
        assert "'other'" in told
        assert "--ablation.output" in told


def test_variant_that_the_file_has_no_longer(folder, capsys):
    write(folder)
    cell(folder, "results/small/hc/seed-0")
    assert "'hc'" in refused(folder, capsys)


@pytest.mark.parametrize("seed", [0, 7])
def test_cells_of_another_configuration(folder, capsys, seed):
    """Also where the cell is not among the chosen ones."""
    from recipes.cli import Resolved
    from recipes.configuration import read, to_yaml

    source = read(write(folder))
    tree = Resolved({key: node for key, node in source.tree.items() if key != "ablation"}, where="").tree
    tree["model"]["init_args"]["topology"] = {"class_path": "mhc.ManifoldHyperConnection", "init_args": {"streams": 2}}
    path = cell(folder, f"results/small/mhc/seed-{seed}")
    tree |= {"seed_everything": seed}
    tree["data"]["init_args"]["seed"] = seed
    tree["trainer"] |= {"enable_progress_bar": False, "max_steps": 20}
    (path / "config.yaml").write_text(to_yaml(tree))
    told = refused(folder, capsys)
    assert "trainer.max_steps 20 -> 12" in told
    assert "--ablation.restart" in told
    assert "--ablation.output" in told
    tree["trainer"]["max_steps"] = 12
    (path / "config.yaml").write_text(to_yaml(tree))
    checkpoint = path / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"PK\x03\x04 and no more")
    if seed == 0:
        told = refused(folder, capsys)
        assert str(checkpoint.relative_to(folder)) in told
        assert "--ablation.restart" in told


def test_ordinary_run_with_a_truncated_checkpoint(folder, capsys):
    write(folder, ablation="")
    checkpoint = folder / "results/small/run/seed-0/checkpoints/last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    torch.save({"global_step": 3, "tensor": torch.zeros(10_000)}, checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:20_000])
    told = refused(folder, capsys)
    assert str(checkpoint.relative_to(folder)) in told
    assert "--ablation.restart" in told


def test_a_bug_keeps_its_traceback(folder, monkeypatch):
    import mhc

    def broken(self, *arguments, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(mhc.Residual, "__init__", broken)
    write(folder)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["--config", "small.yaml"])


def test_from_a_shell(folder):
    """The exit code and the single line survive a process of its own; bad YAML is told before anything is imported."""
    write(folder, run=RUN.replace("heads: 2", "heads: 3"))
    home = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([home, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-m", "recipes.fit", "--config", "small.yaml"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "results").exists()


def test_help(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    told = capsys.readouterr().out
    assert stop.value.code == 0
    assert told.index("--ablation.plan") < told.index("--trainer.max_steps MAX_STEPS")
    assert "--signal_gain.every_n_steps" in told
