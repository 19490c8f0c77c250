"""Components are written down as nodes and built again: the same class, options, parameters and output."""

import copy
import json
from functools import partial

import pytest
import torch
from torch import nn

from mhc import (
    Attention,
    CausalLanguageModel,
    Described,
    HyperConnection,
    ManifoldHyperConnection,
    Residual,
    SwiGLU,
    build,
    describe,
)


class Holder(Described):
    """A component with a component, a number and a table inside."""

    def __init__(self, part: Described, size: int = 3, table: dict[int, int] | None = None, *rest: int) -> None:
        super().__init__()
        self.part, self.size, self.table, self.rest = part, size, table, rest


def model(topology=ManifoldHyperConnection) -> CausalLanguageModel:
    return CausalLanguageModel(
        11,
        8,
        depth=2,
        topology=topology,
        attention=partial(Attention, heads=2, bias=True),
        feed_forward=partial(SwiGLU, hidden=12),
    )


@pytest.mark.parametrize("topology", [Residual, HyperConnection, partial(ManifoldHyperConnection, streams=2)], ids=str)
def test_a_model_is_built_again_from_json(topology):
    first = model(topology)
    node = json.loads(json.dumps(describe(first)))
    second = build(node)
    second.load_state_dict(first.state_dict())
    tokens = torch.randint(11, (2, 5))
    assert torch.equal(first(tokens), second(tokens))
    assert describe(second) == node


def test_a_node_says_what_was_given_and_no_more():
    assert describe(SwiGLU(4, hidden=8)) == {"class_path": "mhc.SwiGLU", "init_args": {"width": 4, "hidden": 8}}
    node = describe(model(partial(HyperConnection, streams=2)))
    assert node["init_args"]["topology"] == {"class_path": "mhc.HyperConnection", "init_args": {"streams": 2}}
    assert node["init_args"]["attention"] == {"class_path": "mhc.Attention", "init_args": {"heads": 2, "bias": True}}
    assert "tied" not in node["init_args"]


def test_jsonargparse_reads_the_node_and_makes_what_can_be_written_down():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=CausalLanguageModel)
    node = describe(model(partial(ManifoldHyperConnection, streams=3, init="uniform")))
    made = parser.instantiate(parser.parse_object({"model": node})).model
    again = describe(made)
    for key, value in node["init_args"].items():
        if isinstance(value, dict):
            assert again["init_args"][key]["class_path"] == value["class_path"]
            assert value["init_args"].items() <= again["init_args"][key]["init_args"].items()
        else:
            assert again["init_args"][key] == value
    assert {name: p.shape for name, p in build(again).named_parameters()} == {
        name: p.shape for name, p in made.named_parameters()
    }


def test_components_within_components_and_tables():
    holder = Holder(SwiGLU(4, hidden=8), table={768: 144})
    node = json.loads(json.dumps(describe(holder)))
    again = build(node)
    assert isinstance(again.part, SwiGLU)
    assert (again.size, again.table) == (3, {768: 144})


def test_copies_keep_their_description():
    first = model()
    assert describe(copy.deepcopy(first)) == describe(first)


@pytest.mark.parametrize(
    ("component", "name"),
    [
        (lambda: model(lambda width, index: Residual()), "topology: <lambda>"),
        (lambda: Holder(nn.Linear(2, 2)), "part: Linear"),
        (lambda: Holder(Residual(), size=torch.float32), "size: torch.float32"),
    ],
    ids=["lambda", "module", "object"],
)
def test_what_cannot_be_written_down_is_named(component, name):
    with pytest.raises(TypeError, match=name):
        describe(component())


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"class_path": "os.system", "init_args": {"command": "true"}}, "os.system is no class of torch modules"),
        ({"class_path": "builtins.eval"}, "builtins.eval is no class"),
        ({"class_path": "mhc.Nothing"}, "mhc.Nothing cannot be found"),
        ({"class_path": "nowhere.Nothing"}, "nowhere.Nothing cannot be found"),
        ({"class_path": "Nothing"}, "cannot be found"),
        ({"class_path": "mhc.SwiGLU", "init_args": {"wide": 3}}, "mhc.SwiGLU takes no argument wide"),
        ({"class_path": "mhc.SwiGLU", "init_args": {"width": 3}}, "mhc.SwiGLU: missing a required argument: 'hidden'"),
        ({"class_path": "mhc.SwiGLU", "init_args": [1]}, "init_args of mhc.SwiGLU must be names and values"),
        ({"class_path": "mhc.RMSNorm", "init_args": {"width": "x"}}, "mhc.RMSNorm cannot be made of its init_args"),
        ({"class_path": "..Nothing"}, "..Nothing cannot be found"),
        ({"init_args": {}}, "a component is"),
        ([], "a component is"),
        ({"class_path": "mhc.SwiGLU", "arguments": {}}, "a component is"),
    ],
    ids=str,
)
def test_a_node_that_makes_no_module_is_refused(node, message):
    with pytest.raises(ValueError, match=message):
        build(node)


def test_code_that_is_not_imported_is_not_run(tmp_path, monkeypatch):
    (tmp_path / "uninvited.py").write_text("raise SystemExit('this code ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"uninvited.Topology cannot be found: import uninvited first, if you trust"):
        build({"class_path": "uninvited.Topology"})
