"""Weights in and out of safetensors: bit for bit, whole or not at all, and every error names what is wrong."""

import json
import weakref
from functools import partial

import pytest
import torch
from helpers import randomise
from safetensors.torch import load_file, save_file
from torch import nn

from encoders import checkpoint as checkpoints
from encoders.checkpoint import Checkpoint, CheckpointError, load_weights, save_weights
from mhc import Attention, CausalLanguageModel, ManifoldHyperConnection, SwiGLU
from mhc.mixture_of_experts import MixtureOfExperts
from mhc.names import Slot


def model(seed: int = 1, dtype: torch.dtype = torch.float32) -> CausalLanguageModel:
    torch.manual_seed(seed)
    made = CausalLanguageModel(
        11,
        8,
        2,
        topology=partial(ManifoldHyperConnection, streams=2),
        attention=partial(Attention, heads=2, bias=True),
        feed_forward=partial(MixtureOfExperts, experts=3, chosen=2, hidden=4, shared=1),
        dense_feed_forward=partial(SwiGLU, hidden=12),
        dense_blocks=1,
        tied=False,
    )
    return randomise(made, 0.2, seed).to(dtype)


def assert_same(first: nn.Module, second: nn.Module) -> None:
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name].dtype != theirs[name].dtype] == []
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shard_bytes", [5e9, 1000])
def test_what_is_saved_loads_bit_for_bit(tmp_path, dtype, shard_bytes):
    first, second = model(1, dtype), model(2, dtype)
    save_weights(first, tmp_path, shard_bytes=shard_bytes)
    load_weights(second, tmp_path)
    assert_same(second, first)
    index = tmp_path / checkpoints.INDEX
    assert index.exists() == (shard_bytes == 1000)
    if index.exists():
        written = json.loads(index.read_text())
        sizes = sum(tensor.nbytes for tensor in first.state_dict().values())
        assert written["metadata"]["total_size"] == sizes
        shards = {file: load_file(tmp_path / file) for file in files(tmp_path) if file.endswith(".safetensors")}
        assert len(shards) > 3
        assert {name: file for file, shard in shards.items() for name in shard} == written["weight_map"]
        heavy = [shard for shard in shards.values() if sum(t.nbytes for t in shard.values()) > 1000]
        assert all(len(shard) == 1 for shard in heavy)


def test_special_values_survive(tmp_path):
    first, second = nn.Linear(4, 1), nn.Linear(4, 1)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[float("nan"), -0.0, float("inf"), 1e-45]]))
    save_weights(first, tmp_path)
    load_weights(second, tmp_path)
    assert torch.equal(first.weight.view(torch.int32), second.weight.view(torch.int32))


def test_the_module_keeps_its_dtype(tmp_path):
    first, second = nn.Linear(4, 3).bfloat16(), nn.Linear(4, 3)
    save_weights(first, tmp_path)
    load_weights(second, tmp_path)
    assert second.weight.dtype == torch.float32
    assert torch.equal(second.weight, first.weight.float())


def test_tied_weights_are_written_and_read(tmp_path):
    first = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    first["b"].weight = first["a"].weight
    second = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    second["b"].weight = second["a"].weight
    save_weights(first, tmp_path)
    load_weights(second, tmp_path)
    assert torch.equal(second["a"].weight, first["a"].weight)


def test_transposed_and_integer_tensors(tmp_path):
    first, second = nn.Linear(3, 5), nn.Linear(3, 5)
    first.weight = nn.Parameter(torch.randn(3, 5).t())
    for module in (first, second):
        module.register_buffer("count", torch.tensor(int(module is first)))
    save_weights(first, tmp_path)
    load_weights(second, tmp_path)
    assert torch.equal(first.weight, second.weight)
    assert second.count == 1


def test_a_file_and_a_prefix(tmp_path):
    first, second = nn.Linear(4, 3), nn.Linear(4, 3)
    file = tmp_path / "other.safetensors"
    save_file({f"deep.{name}": tensor for name, tensor in first.state_dict().items()}, file)
    load_weights(second, file, prefix="deep.")
    assert_same(second, first)


def written(folder, **changes):
    """A checkpoint of a linear layer with some tensors changed; None takes one away."""
    state = nn.Linear(4, 3).state_dict() | changes
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, folder / checkpoints.SINGLE)
    return folder


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"bias": None}, r"lacks bias: name in fresh"),
        ({"extra": torch.zeros(1)}, r"no place for: extra$"),
        ({f"extra{k}": torch.zeros(1) for k in range(9)}, r"extra0, extra1, extra2, extra3 and 5 more"),
        ({"weight": torch.zeros(4, 3)}, r"weight \[4, 3\] \(F32\) for weight \[3, 4\] \(float32\)"),
        ({"weight": torch.zeros(3, 4, dtype=torch.int8)}, r"weight \[3, 4\] \(I8\)"),
        ({"bias": None, "other": torch.zeros(3)}, r"lacks bias; it has .*other"),
    ],
)
def test_nothing_is_loaded_unless_all_fits(tmp_path, changes, named):
    module = nn.Linear(4, 3)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(CheckpointError, match=named):
        load_weights(module, written(tmp_path, **changes))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_fresh_parts_keep_their_values_where_the_checkpoint_has_none(tmp_path):
    module = nn.Linear(4, 3)
    before = module.bias.clone()
    load_weights(module, written(tmp_path, bias=None), fresh=["bi*"])
    assert torch.equal(module.bias, before)
    load_weights(module, written(tmp_path, bias=torch.zeros(7)), fresh=["bi*"])
    assert torch.equal(module.bias, before)
    load_weights(module, written(tmp_path, bias=torch.ones(3)), fresh=["bi*"])
    assert torch.equal(module.bias, torch.ones(3))
    with pytest.raises(CheckpointError, match="lacks weight"):
        load_weights(module, written(tmp_path, weight=None), fresh=["bi*"])


def test_a_fused_tensor_is_not_loaded_in_part(tmp_path):
    first, second = model(1), model(2)
    save_weights(first, tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["layers.0.self_attn.v_proj.weight"]
    save_file(tensors, file)
    before = {name: tensor.clone() for name, tensor in second.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"lacks layers.0.self_attn.v_proj.weight, which one tensor holds"):
        load_weights(second, tmp_path, fresh=["*"])
    assert all(torch.equal(before[name], tensor) for name, tensor in second.state_dict().items())


def test_ignored_names_are_passed_over(tmp_path):
    extra = {"optimizer.step": torch.zeros(1)}
    load_weights(nn.Linear(4, 3), written(tmp_path, **extra), ignore=["optimizer.*"])
    with pytest.raises(CheckpointError, match=r"optimizer\.step"):
        load_weights(nn.Linear(4, 3), written(tmp_path, **extra), ignore=["scheduler.*"])


def test_a_module_without_storage_is_refused(tmp_path):
    with torch.device("meta"):
        module = nn.Linear(4, 3)
    with pytest.raises(CheckpointError, match="meta device"):
        load_weights(module, written(tmp_path))
    with pytest.raises(CheckpointError, match="meta device"):
        save_weights(module, tmp_path / "new")
    assert files(tmp_path) == [checkpoints.SINGLE]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_a_pickle_is_refused_with_the_remedy(tmp_path, name):
    torch.save(nn.Linear(4, 3).state_dict(), tmp_path / name)
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(CheckpointError, match=rf"{name}.*could run code: convert it to safetensors"):
            load_weights(nn.Linear(4, 3), source)


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_a_truncated_file_is_named(tmp_path, keep):
    file = written(tmp_path) / checkpoints.SINGLE
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is no whole safetensors file"):
        load_weights(nn.Linear(4, 3), tmp_path)


def test_a_damaged_header_is_named(tmp_path):
    file = written(tmp_path) / checkpoints.SINGLE
    file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:])
    with pytest.raises(CheckpointError, match="no whole safetensors file"):
        load_weights(nn.Linear(4, 3), tmp_path)


def test_an_empty_or_absent_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"has neither model\.safetensors nor"):
        load_weights(nn.Linear(4, 3), tmp_path)
    with pytest.raises(CheckpointError, match=r"no checkpoint .*nowhere"):
        load_weights(nn.Linear(4, 3), tmp_path / "nowhere")


def sharded(folder):
    save_weights(nn.Linear(4, 3), folder, shard_bytes=1)
    index = folder / checkpoints.INDEX
    return index, json.loads(index.read_text())


def test_a_missing_shard_is_named(tmp_path):
    sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks shards that .*model-00002-of-00002\.safetensors"):
        load_weights(nn.Linear(4, 3), tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda index: index["weight_map"].update(bias="model-00001-of-00002.safetensors"), "promises: bias"),
        (lambda index: index["weight_map"].update(bias="../model.safetensors"), "outside its folder"),
        (lambda index: index["weight_map"].update(bias="absent.safetensors"), r"absent\.safetensors"),
        (lambda index: index["weight_map"].update(bias=3), "no weight_map"),
        (lambda index: index.pop("weight_map"), "no weight_map"),
    ],
)
def test_a_wrong_index_is_named(tmp_path, change, named):
    path, index = sharded(tmp_path)
    change(index)
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=named):
        load_weights(nn.Linear(4, 3), tmp_path)
    path.write_text(path.read_text()[:-5])
    with pytest.raises(CheckpointError, match="is no JSON file"):
        load_weights(nn.Linear(4, 3), tmp_path)


def test_a_shard_that_holds_more_than_its_index_says(tmp_path):
    sharded(tmp_path)
    shard = tmp_path / "model-00001-of-00002.safetensors"
    save_file(load_file(shard) | {"stray": torch.zeros(1)}, shard)
    with pytest.raises(CheckpointError, match="no place for: stray"):
        load_weights(nn.Linear(4, 3), tmp_path)


def test_two_checkpoints_in_one_folder_are_refused(tmp_path):
    sharded(tmp_path)
    written(tmp_path)
    with pytest.raises(CheckpointError, match="has both"):
        load_weights(nn.Linear(4, 3), tmp_path)


def test_a_checkpoint_takes_the_place_of_the_old_one(tmp_path):
    made = [nn.Linear(4, 3) for _ in range(4)]
    for module, shard_bytes in zip(made, (1, 1e9, 1, 50), strict=True):
        save_weights(module, tmp_path, shard_bytes=shard_bytes)
        found = nn.Linear(4, 3)
        load_weights(found, tmp_path)
        assert_same(found, module)
        assert not any("part" in name for name in files(tmp_path))
    save_weights(made[0], tmp_path)
    assert files(tmp_path) == [checkpoints.SINGLE]


@pytest.mark.parametrize("shard_bytes", [1, 1e9])
@pytest.mark.parametrize("before", [1, 1e9])
def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch, before, shard_bytes):
    old, calls = nn.Linear(4, 3), []
    save_weights(old, tmp_path, shard_bytes=before)
    names = files(tmp_path)

    def full_disk(*arguments, **options):
        calls.append(save_file(*arguments, **options))
        if len(calls) == (2 if shard_bytes == 1 else 1):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_weights(nn.Linear(4, 3), tmp_path, shard_bytes=shard_bytes)
    assert files(tmp_path) == names
    found = nn.Linear(4, 3)
    load_weights(found, tmp_path)
    assert_same(found, old)


def test_tensors_are_read_one_at_a_time(tmp_path, monkeypatch):
    save_weights(model(1), tmp_path)
    alive, most = [], []
    read = Checkpoint.read

    def counted(self, key):
        tensor = read(self, key)
        alive.append(weakref.ref(tensor))
        most.append(sum(reference() is not None for reference in alive))
        return tensor

    monkeypatch.setattr(Checkpoint, "read", counted)
    load_weights(model(2), tmp_path)
    assert len(most) > 20
    assert max(most) <= 2


def test_texts_are_written_with_the_weights_and_all_files_are_as_readable(tmp_path):
    save_weights(nn.Linear(4, 3), tmp_path, shard_bytes=1, beside={"config.json": "{}"})
    assert (tmp_path / "config.json").read_text() == "{}"
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_names_may_be_given(tmp_path):
    first, second = nn.Linear(4, 3), nn.Linear(4, 3)
    names = {"upper": Slot("weight", (slice(0, 1),)), "lower": Slot("weight", (slice(1, 3),)), "b": Slot("bias")}
    save_weights(first, tmp_path, names)
    assert set(load_file(tmp_path / checkpoints.SINGLE)) == set(names)
    load_weights(second, tmp_path, names)
    assert_same(second, first)
