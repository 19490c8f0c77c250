"""The grid without processes: flags, variants, whole-node replacement, matching, the plan."""

import json

import pytest
from small_ablation import ABLATION, RUN, write

from recipes.ablation import grid, options
from recipes.ablation.matching import match
from recipes.ablation.prepare import prepare
from recipes.ablation.schema import Ablation
from recipes.configuration import differences, full_path, parse_yaml, place, question, read
from recipes.errors import UserError
from recipes.files import replace_json
from recipes.fit import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(line: str) -> list[str]:
    return line.split()


@pytest.mark.parametrize(
    "values", [["0", "2"], ["0,2"], ["[0,2]"], ["[0, 2]"], ["0,", "2"], ["0", "2", "2"]], ids=" ".join
)
def test_seeds(values):
    assert options.parse(["--config", "a.yaml", "--ablation.seeds", *values]).seeds == [0, 2]


def test_flags_and_overrides_are_parted():
    given = options.parse(
        words(
            "--trainer.max_steps 3 --config a.yaml --ablation.only hc,mhc x/seed-1 --model.width=8 --ablation.seeds=4"
        )
    )
    assert given.only == ["hc", "mhc", "x/seed-1"]
    assert given.seeds == [4]
    assert given.overrides == ["--trainer.max_steps", "3", "--model.width=8"]


def test_question():
    assert (
        question("# Does it?\n# Does it really?\n# python -m recipes.fit\n# more\na: 1\n") == "Does it? Does it really?"
    )
    assert question("a: 1\n# Does it?\n") == ""


def test_yaml_as_lightning_reads_it():
    text = "a: 1e-3\nb: &x {c: 1}\nd: *x\ne: 2020-01-01\nf: {<<: *x, c: 2}\ng: .inf\nh: 12\n"
    tree = parse_yaml(text)
    assert tree["a"] == 1e-3
    assert tree["e"] == "2020-01-01"
    assert tree["f"] == {"c": 2}
    assert tree["g"] == float("inf")
    assert tree["h"] == 12
    assert tree["b"] is not tree["d"]


def test_place_replaces_the_whole_node():
    tree = {
        "model": {"class_path": "a.B", "init_args": {"topology": {"class_path": "a.C", "init_args": {"scale": 0.9}}}}
    }
    place(tree, "model.topology", {"class_path": "a.D"})
    assert tree["model"]["init_args"]["topology"] == {"class_path": "a.D"}
    place(tree, "model.topology.streams", 2)
    assert tree["model"]["init_args"]["topology"] == {"class_path": "a.D", "init_args": {"streams": 2}}
    assert full_path(tree, "model.topology.streams") == "model.init_args.topology.init_args.streams"
    with pytest.raises(UserError, match=r"no 'model.init_args.topolog'"):
        place(tree, "model.topolog.streams", 2)


def test_differences():
    old = {"a": {"b": 1, "c": [1, 2]}, "gone": 1, "trainer": {"default_root_dir": "x"}}
    new = {"a": {"b": 2, "c": [1, 2]}, "new": 1, "trainer": {"default_root_dir": "y"}}
    assert differences(old, new) == [("a.b", 1, 2)]


def source(folder, ablation=ABLATION, run=RUN):
    return read(write(folder, ablation, run))


AXES = """\
    width:
      narrow: {model.init_args.width: 8}
      wide: {model.init_args.width: 16, model.init_args.attention.init_args.heads: 4}
"""


def test_product_of_axes(folder):
    work = prepare(source(folder, ABLATION + AXES), options.Options())
    names = [cell.name for cell in work.cells]
    assert names[:4] == ["residual+narrow/seed-0", "residual+wide/seed-0", "mhc+narrow/seed-0", "mhc+wide/seed-0"]
    assert len(names) == 8
    assert [cell.seed for cell in work.cells] == [0] * 4 + [1] * 4
    cell = work.cells[3]
    model = cell.tree["model"]["init_args"]
    assert (model["width"], model["attention"]["init_args"]["heads"]) == (16, 4)
    assert cell.tree["trainer"]["default_root_dir"] == "results/small/mhc+wide/seed-0"
    assert work.cells[7].tree["seed_everything"] == work.cells[7].tree["data"]["init_args"]["seed"] == 1
    assert not (folder / "results").exists()


def test_nothing_leaks_from_the_base_or_between_variants(folder):
    """The base's node has options that the variants' classes would accept, or not; none comes through."""
    base = RUN.replace(
        "topology: {class_path: mhc.HyperConnection, init_args: {streams: 2}}",
        "topology: {class_path: mhc.ManifoldHyperConnection, init_args: {streams: 3, sinkhorn_steps: 7, eps: 1e-6}}",
    )
    named = ABLATION + "      hc: {model.topology: mhc.HyperConnection}\n"
    work = prepare(source(folder, named, base), options.Options(seeds=[0]))
    topologies = {cell.variant.name: cell.tree["model"]["init_args"]["topology"] for cell in work.cells}
    assert topologies["residual"] in ({"class_path": "mhc.Residual", "init_args": {}}, {"class_path": "mhc.Residual"})
    assert topologies["mhc"]["init_args"]["streams"] == 2
    assert topologies["mhc"]["init_args"]["sinkhorn_steps"] == 20
    assert topologies["mhc"]["init_args"]["eps"] == 0.0
    assert topologies["hc"]["class_path"] == "mhc.HyperConnection"
    assert topologies["hc"]["init_args"]["streams"] == 4


def test_scalar_under_a_node_of_the_same_variant_and_of_another_axis(folder):
    ablation = """\
ablation:
  axes:
    topology:
      mhc:
        model.init_args.topology.init_args.sinkhorn_steps: 3
        model.init_args.topology: {class_path: mhc.ManifoldHyperConnection, init_args: {streams: 2}}
    streams:
      two: {}
      four: {model.init_args.topology.init_args.streams: 4}
"""
    work = prepare(source(folder, ablation), options.Options())
    found = [cell.tree["model"]["init_args"]["topology"]["init_args"] for cell in work.cells]
    assert [(entry["streams"], entry["sinkhorn_steps"]) for entry in found] == [(2, 3), (4, 3)]


def test_seeds_alone(folder):
    work = prepare(source(folder, "ablation: {seeds: [3]}\n"), options.Options())
    assert [cell.name for cell in work.cells] == ["base/seed-3"]


def test_overrides_reach_every_cell_and_not_the_axes(folder):
    given = options.parse(
        words("--model.depth 2 --data.batch_size=2 --trainer.max_steps 3 --signal_gain.every_n_steps 1")
    )
    work = prepare(source(folder), given)
    for cell in work.cells:
        assert cell.tree["model"]["init_args"]["depth"] == 2
        assert cell.tree["data"]["init_args"]["batch_size"] == 2
        assert cell.tree["signal_gain"]["every_n_steps"] == 1
        assert cell.costs.steps == 3
        assert cell.costs.tokens_per_step == 2 * 16
    allowed = options.parse(words("--model.topology.sinkhorn_steps 5 --ablation.only mhc"))
    topology = prepare(source(folder), allowed).cells[0].tree["model"]["init_args"]["topology"]["init_args"]
    assert (topology["streams"], topology["sinkhorn_steps"]) == (2, 5)


@pytest.mark.parametrize(
    ("only", "names"),
    [
        (["mhc"], ["mhc+narrow", "mhc+wide"]),
        (["*+wide"], ["residual+wide", "mhc+wide"]),
        (["residual+narrow", "mhc+w*"], ["residual+narrow", "mhc+wide"]),
        (["mhc/seed-0", "wide/seed-0"], ["residual+wide", "mhc+narrow", "mhc+wide"]),
    ],
)
def test_only(folder, only, names):
    given = source(folder, ABLATION + AXES)
    found = grid.variants(Ablation.read(given), given)
    assert [variant.name for variant, _ in grid.select(found, [0], only)] == names


@pytest.mark.parametrize("start", [1, 50, 256, 4000])
@pytest.mark.parametrize("count", [lambda v: 1000 + 26 * v, lambda v: 3 * v * v + 7, lambda v: 4 * (5 * v // 2) + v])
def test_match(count, start):
    target = count(100) + 2
    value = match(count, start, target)
    best = min(range(1, 400), key=lambda v: abs(count(v) - target))
    assert abs(count(value) - target) == abs(count(best) - target)


def test_match_refuses():
    with pytest.raises(UserError, match="does not grow"):
        match(lambda value: 7, 3, 9)
    with pytest.raises(UserError, match="even at 1"):
        match(lambda value: 1000 + value, 3, 9)


def test_matched_parameters(folder):
    """Along the first axis, at each choice of the others, within one unit."""
    path = "model.init_args.feed_forward.init_args.hidden"
    ablation = ABLATION.replace("  seeds: [0, 1]", f"  seeds: [0]\n  match_parameters: {path}") + AXES
    run = RUN.replace("hidden: 32", "hidden: 200")
    work = prepare(source(folder, ablation, run), options.Options())
    cells = {cell.variant.name: cell for cell in work.cells}
    for width, unit in (("narrow", 2 * 8), ("wide", 2 * 16)):
        base, other = cells[f"residual+{width}"], cells[f"mhc+{width}"]
        assert base.matched is None
        assert other.matched == {path: other.tree["model"]["init_args"]["feed_forward"]["init_args"]["hidden"]}
        assert other.matched[path] < 200
        assert abs(other.costs.parameters - base.costs.parameters) <= unit


def test_what_is_open(folder):
    given = source(folder)
    cells = prepare(given, options.Options()).cells
    for cell, status in zip(cells, ("finished", "diverged", "failed", "interrupted"), strict=True):
        cell.write(Ablation.read(given), shared=False)
        replace_json(cell.folder / "status.json", {"status": status})
    work = prepare(given, options.Options())
    assert [cell.status["status"] for cell in work.open] == ["failed", "interrupted"]
    again = prepare(given, options.Options(restart=True, only=["residual"]))
    assert [cell.name for cell in again.open] == ["residual/seed-0", "residual/seed-1"]
    assert len(prepare(given, options.Options(restart=True)).stale) == 4


def test_plan(folder, capsys):
    write(folder)
    assert main(["--config", "small.yaml", "--ablation.plan"]) == 0
    told = capsys.readouterr().out
    assert "Do the topologies differ?" in told
    assert "mhc/seed-1" in told
    assert "matmul" in told
    assert not (folder / "results").exists()
    done = folder / "results/small/mhc/seed-0"
    done.mkdir(parents=True)
    about = {"ablation": "small", "variant": "mhc", "seed": 0}
    (done / "cell.json").write_text(json.dumps(about))
    (done / "status.json").write_text(json.dumps({"status": "finished", "step_ms": 50_000.0}))
    assert main(["--config", "small.yaml", "--ablation.plan", "--ablation.only", "mhc"]) == 0
    told = capsys.readouterr().out
    assert "measured" in told
    assert "10 min" in told
