"""Every file of ablations/: opens with its question and command, resolves to what it says, and takes a step."""

import importlib
import inspect
import json
import os
import shlex
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from encoders.views import Views
from recipes import checks
from recipes.ablation import grid, options
from recipes.ablation import prepare as preparation
from recipes.ablation.schema import Ablation
from recipes.callbacks import run_record
from recipes.cli import CLI, Resolved
from recipes.configuration import lookup, plain, read
from recipes.description.costs import Input, example

HOME = Path(__file__).parents[2]
FILES = sorted((HOME / "ablations").glob("*.yaml"), key=lambda path: path.stem)
SOURCES = {path.stem: read(path) for path in FILES}
GPU = [name for name, source in SOURCES.items() if Ablation.read(source).scale == "gpu"]
# what reads pages takes its steps beside its data
CPU = [
    name
    for name, source in SOURCES.items()
    if name not in GPU and source.tree["model"]["class_path"] == "recipes.modules.LanguageModel"
]
# variants whose sizes are those of all: a learning rate changes none, deep ones take long, and so do three at full size
ENOUGH = {"scale": "mhc+d32+x1 mhc+d48+x1", "ocr2_full": "mhc", "encoders_rates_full": "qformer+r3e-4"}
ENOUGH |= {"ocr2_one_gpu": "mhc"}
ENOUGH |= {
    "shakespeare_depth": "*+d06",
    "depth_and_rate_full": "residual+d48+x1 hc+d48+x1 mhc_t20+d48+x1",
    "conventions_full": "*+rows",
}
ENOUGH |= {"compression_full": "random_letters+q036"}
ENOUGH |= {"topology_x_encoder_full": "mhc+mbart", "encoders_full": "mbart", "encoder_init_full": "both"}
ENOUGH |= {"query_counts_full": "q072", "query_attention_full": "bidirectional+fixed"}
# a page of two crops for what reads pages, and text
READ = Input(text=8, page=(1536, 768), views=Views())
# parameters that the files promise, within 2 % (the reproduction says only "about" of the first)
PROMISED = {"shakespeare": 10.4e6, "scale+d32": 1.73e9, "scale+d48": 2.54e9, "ocr2_full": 3.389e9}
PROMISED |= {"ocr2_one_gpu": 3.389e9, "ocr2_stage1": 596e6, "ocr2_stage2": 3.389e9, "ocr2_stage3": 3.389e9}
# whose model is another file's, of which one forward is enough
SAME = {"ocr2_stage3": "ocr2_stage2", "ocr2_one_gpu": "ocr2_full"}


@cache
def variants(name: str) -> list[tuple[grid.Variant, Resolved]]:
    """A few variants of a file in which every level of every axis occurs."""
    source = SOURCES[name]
    base = {key: node for key, node in source.tree.items() if key != "ablation"}
    found = grid.variants(Ablation.read(source), source)
    missing, chosen = {level for one in found for level in one.axes.items()}, found[: not found[0].axes]
    while missing:
        chosen.append(max(found, key=lambda one: len(missing & one.axes.items())))
        missing -= chosen[-1].axes.items()
    where = "{}, variant {}" if found[0].axes else "{}"
    return [(one, parse(one.apply(base), where=where.format(source.path, one.name))) for one in chosen]


@cache
def _parsed(tree: str, overrides: tuple[str, ...], where: str) -> Resolved:
    return Resolved(json.loads(tree), overrides, where=where)


def parse(tree, overrides=(), *, where) -> Resolved:
    """Parsed once for all tests, which takes half a second."""
    return _parsed(json.dumps(tree), tuple(overrides), where)


def test_they_are_all_here():
    wanted = {"mhc_vs_hc", "depth", "streams", "sinkhorn_steps", "mhc_parts", "shakespeare", "scale", "ocr2_full"}
    wanted |= {
        "shakespeare_depth",
        "hc_rate",
        "manifold",
        *(f"{name}{size}" for name in ("depth_and_rate", "conventions") for size in ("", "_full")),
    }
    assert wanted <= set(SOURCES)
    wanted = {f"ocr2_{size}stage{number}" for size in ("", "tiny_") for number in (1, 2, 3)}
    assert wanted <= set(SOURCES)
    assert {"shakespeare", "scale", "ocr2_full", "ocr2_one_gpu", "ocr2_stage1", "ocr2_stage2", "ocr2_stage3"} <= set(
        GPU
    )


@pytest.mark.parametrize("name", SOURCES)
def test_opens_with_question_and_command(name):
    lines = SOURCES[name].text.splitlines()
    assert SOURCES[name].question.endswith("?")
    command = next(line for line in lines if "python -m" in line).lstrip("# ")
    assert shlex.split(command)[:5] == ["python", "-m", "recipes.fit", "--config", f"ablations/{name}.yaml"]
    assert options.parse(shlex.split(command)[3:]).configs == [Path(f"ablations/{name}.yaml")]


@pytest.mark.parametrize("name", SOURCES)
def test_resolves_to_what_it_says(name):
    """Every node of a variant has its class, its own options, and the class's defaults for all others."""
    for variant, resolved in variants(name):
        assert variant.survives(resolved.tree) is None
        for path, value in variant.settings.items():
            found = lookup(resolved.tree, path)
            if not isinstance(value, dict):
                assert found == value
                continue
            if "class_path" not in value:
                continue  # values alone, which `survives` has compared
            assert found["class_path"] == value["class_path"]
            given = value.get("init_args", {})
            deeper = [other for other in variant.settings if other.startswith(path + ".")]
            module, _, kind = value["class_path"].rpartition(".")
            made = inspect.signature(getattr(importlib.import_module(module), kind)).parameters
            for option, entry in found.get("init_args", {}).items():
                if not any(other.endswith(f".{option}") for other in deeper):
                    wanted = given.get(option, made[option].default)
                    # a configuration has a duration as its text
                    wanted = str(wanted) if isinstance(wanted, timedelta) else wanted
                    assert entry == wanted, (variant.name, option)
            assert set(given) <= set(found.get("init_args", {}))


@pytest.mark.parametrize("name", CPU)
@patch.dict(os.environ)  # where Lightning leaves a process group's address and ranks to all that is started later
def test_takes_a_step(name, tmp_path, monkeypatch):
    """Every level of every axis trains for a step on the CPU, at a small size that keeps its axes."""
    monkeypatch.setattr(run_record, "environment", dict)
    (tmp_path / "corpus.txt").write_text("the residual stream of a block is read, mixed and written. " * 60)
    for variant, resolved in variants(name):
        tree = plain(resolved.tree)
        model = tree["model"]["init_args"]
        model |= {"width": 16, "depth": min(model["depth"], 2)}
        model["feed_forward"]["init_args"]["hidden"] = 16
        data = {"path": str(tmp_path / "corpus.txt"), "sequence_length": 16, "batch_size": 2, "split_blocks": 1}
        tree["data"]["init_args"] |= data | {"validation_batches": 1}
        tree["trainer"] |= {"max_steps": 1, "enable_progress_bar": False, "enable_checkpointing": True}
        tree["trainer"]["default_root_dir"] = str(tmp_path / variant.name)
        tree["signal_gain"]["figures"] = False
        cli = CLI(tree)
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        assert cli.trainer.global_step == 1
        assert torch.isfinite(cli.trainer.callback_metrics["train/loss"])
        assert (tmp_path / variant.name / "checkpoints" / "last.ckpt").exists()
        if dist.is_initialized():
            dist.destroy_process_group()


@pytest.mark.parametrize("name", GPU)
def test_forward_on_meta(name, monkeypatch):
    """What needs a GPU is described without one: the size of every variant, and a forward of every different model."""
    monkeypatch.setattr(checks, "count_flops", lambda resolved, sequence_length: None)
    monkeypatch.setattr(preparation, "Resolved", parse)
    seen, sizes = set(), {}
    source, flags = SOURCES[name], ["--ablation.plan", "--ablation.seeds", "0"]
    if name in ENOUGH:
        flags += ["--ablation.only", *ENOUGH[name].split()]
    for cell in preparation.prepare(source, options.parse(flags)).cells:
        key = "+".join([name, *(part for part in cell.variant.axes.values() if part in ("d32", "d48"))])
        first = sizes.setdefault(key, cell.costs.parameters)
        assert abs(cell.costs.parameters / PROMISED.get(key, first) - 1) < 0.025, (cell.name, cell.costs.parameters)
        mark = str(
            [value for value in cell.variant.settings.values() if isinstance(value, dict)]
        )  # depths are more of it
        if name in SAME:
            networks = [lookup(tree, "model.network.init_args") for tree in (source.tree, SOURCES[SAME[name]].tree)]
            # a number of the vocabulary, which has the same size
            assert networks[0] | {"image_token": 0} == networks[1] | {"image_token": 0}
        elif mark not in seen:
            seen.add(mark)
            with torch.device("meta"), torch.no_grad():
                network = parse(cell.tree, where=cell.name).build("model").network
                views = (cell.tree["data"]["init_args"].get("views") or {}) if hasattr(network, "vision") else {}
                arguments = example(network, replace(READ, views=Views(**views)))
                logits = network(*arguments)
            vocabulary = getattr(network, "decoder", network).vocabulary_size
            assert logits.shape == (*arguments[0].shape, vocabulary)
