"""The released layout: every name and shape at full size, and round trips with transformers both ways."""

import copy
import json

import pytest
import torch
from helpers import FP32, randomise, relative_error
from released_cases import RELEASED, TINY, full_transformers
from safetensors.torch import load_file, save_file

from encoders.checkpoint import CheckpointError, load_weights, save_weights
from encoders.query_bank import FixedQueryBank
from encoders.released import load_ocr2, save_ocr2, to_config
from encoders.released_config import ocr2_node
from mhc import build, describe
from mhc.names import released_names

configuration = pytest.importorskip("transformers.models.deepseek_ocr2.configuration_deepseek_ocr2")
modeling = pytest.importorskip("transformers.models.deepseek_ocr2.modeling_deepseek_ocr2")
from transformers.core_model_loading import revert_weight_conversion  # noqa: E402


@pytest.fixture(scope="module")
def full():
    with torch.device("meta"):
        return build(ocr2_node(RELEASED))


@pytest.fixture(scope="module")
def oracle():
    return randomise(
        modeling.DeepseekOcr2ForConditionalGeneration(configuration.DeepseekOcr2Config(**copy.deepcopy(TINY))), 0.2
    ).eval()


@pytest.fixture(scope="module")
def folder(oracle, tmp_path_factory):
    path = tmp_path_factory.mktemp("released")
    oracle.save_pretrained(path)
    return path


def same_files(first, second):
    ours, theirs = load_file(first), load_file(second)
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], tensor) and ours[name].dtype == tensor.dtype for name, tensor in theirs.items())


def size(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


# the full size


def test_every_name_and_shape_of_the_released_layout(full):
    model = full_transformers()
    theirs = {name: list(tensor.shape) for name, tensor in revert_weight_conversion(model, model.state_dict()).items()}
    state = full.state_dict()
    ours = {name: list(slot.of(state).shape) for name, slot in released_names(full).items()}
    assert len(theirs) == 2707
    assert ours == theirs
    assert ours["model.sam_model.net_3.weight"] == [896, 512, 3, 3]
    assert size(full) == sum(parameter.numel() for parameter in model.parameters())


def test_parameter_counts(full):
    assert size(full.vision.tokenizer) == 94_979_328
    assert size(full.vision.encoder) == 357_898_112
    assert size(full.decoder) - size(full.decoder.head) == 2_769_255_680


def test_the_released_file_and_the_one_of_transformers_describe_one_model(full):
    config = json.loads(full_transformers().config.to_json_string())
    # transformers' defaults are not those of the released model
    config["vision_config"]["encoder_config"]["rope_parameters"]["rope_theta"] = 1e6
    config["text_config"]["pad_token_id"] = 2
    with torch.device("meta"):
        theirs = build(ocr2_node(config))
    assert to_config(theirs) | {"architecture": None} == to_config(full) | {"architecture": None}
    assert to_config(full)["vision_config"]["sam_config"]["downsample_channels"] == [512, 896]
    assert (full.image_token, full.end_token, full.padding_token) == (128815, 1, 2)


# round trips


def test_what_transformers_writes_loads_and_is_written_back_bit_for_bit(folder, oracle, tmp_path):
    model = load_ocr2(folder)
    state = model.state_dict()
    theirs = load_file(folder / "model.safetensors")
    assert all(torch.equal(slot.of(state), theirs[name]) for name, slot in released_names(model).items())
    assert (model.image_token, model.end_token, model.padding_token) == (7, 1, 2)
    save_ocr2(model, tmp_path)
    assert same_files(tmp_path / "model.safetensors", folder / "model.safetensors")
    tokens = torch.randint(8, 37, (2, 9))
    with torch.no_grad():
        assert relative_error(model(tokens), oracle(input_ids=tokens).logits) <= FP32


@pytest.mark.parametrize("shard_bytes", [5e9, 20_000])
def test_transformers_loads_what_we_write(folder, oracle, tmp_path, shard_bytes):
    model = randomise(load_ocr2(folder), 0.2, seed=5)
    save_ocr2(model, tmp_path, shard_bytes=shard_bytes)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_bytes < 1e9)
    theirs, report = modeling.DeepseekOcr2ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    written = revert_weight_conversion(theirs, theirs.state_dict())
    state = model.state_dict()
    assert {name for name in written} == set(released_names(model))
    assert all(torch.equal(slot.of(state), written[name]) for name, slot in released_names(model).items())
    for config, expected in ((theirs.config.text_config, oracle.config.text_config),):
        same = ("rope_parameters", "mlp_layer_types", "eos_token_id", "pad_token_id", "num_key_value_heads")
        assert [key for key in same if getattr(config, key) != getattr(expected, key)] == []
    assert theirs.config.image_token_id == 7
    tokens = torch.randint(8, 37, (2, 9))
    with torch.no_grad():
        assert relative_error(model(tokens), theirs.eval()(input_ids=tokens).logits) <= FP32


def test_a_checkpoint_in_shards_of_transformers(oracle, tmp_path):
    oracle.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 3
    save_ocr2(load_ocr2(tmp_path / "theirs"), tmp_path / "ours")
    oracle.save_pretrained(tmp_path / "whole")
    assert same_files(tmp_path / "ours" / "model.safetensors", tmp_path / "whole" / "model.safetensors")


def test_a_checkpoint_keeps_its_dtype_unless_another_is_asked_for(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    tmp_path.joinpath("config.json").write_text((folder / "config.json").read_text())
    save_file({name: weight.bfloat16() for name, weight in weights.items()}, tmp_path / "model.safetensors")
    model = load_ocr2(tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    save_ocr2(model, tmp_path / "again")
    assert same_files(tmp_path / "again" / "model.safetensors", tmp_path / "model.safetensors")
    assert to_config(model)["dtype"] == "bfloat16"
    assert {p.dtype for p in load_ocr2(tmp_path, dtype=torch.float32).parameters()} == {torch.float32}
    save_file(weights | {"lm_head.weight": weights["lm_head.weight"].half()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="F16, F32: give the dtype"):
        load_ocr2(tmp_path)


def test_loading_draws_no_random_number(folder):
    before = torch.get_rng_state()
    load_ocr2(folder)
    assert torch.equal(torch.get_rng_state(), before)


# other parts


def changed(folder, part, **arguments):
    node = describe(load_ocr2(folder))
    node["init_args"][part]["init_args"] |= arguments
    return node


MHC = {"class_path": "mhc.ManifoldHyperConnection", "init_args": {"streams": 2, "init": "residual"}}


@pytest.mark.parametrize("part", ["tokenizer", "encoder", "decoder"])
def test_other_topologies_start_in_a_plain_checkpoint_and_are_saved(folder, tmp_path, part):
    node = changed(folder, part, topology=MHC)
    with pytest.raises(CheckpointError, match=r"lacks .*topologies.*name in fresh"):
        load_ocr2(folder, architecture=node)
    model = randomise(load_ocr2(folder, architecture=node, fresh=["*topologies*"]), 0.1)
    save_ocr2(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert set(config) == {"architecture"}  # transformers has no such model
    again = load_ocr2(tmp_path)
    assert type(getattr(again.vision, part, again.decoder).trunk.topologies[0]).__name__ == "ManifoldHyperConnection"
    weights = model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.state_dict().items())


def test_topologies_stay_in_fp32_in_a_bf16_checkpoint(folder, tmp_path):
    node = changed(folder, "decoder", topology=MHC)
    model = load_ocr2(folder, architecture=node, fresh=["*topologies*"], dtype=torch.bfloat16)
    save_ocr2(model, tmp_path)
    again, weights = load_ocr2(tmp_path), model.state_dict()
    kinds = {name: tensor.dtype for name, tensor in again.state_dict().items()}
    assert {kind for name, kind in kinds.items() if "topologies" in name} == {torch.float32}
    assert {kind for name, kind in kinds.items() if "topologies" not in name} == {torch.bfloat16}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.state_dict().items())


def test_other_encoders_and_banks_are_saved_and_loaded(folder, tmp_path):
    node = describe(load_ocr2(folder))
    node["init_args"]["encoder"] = {
        "class_path": "encoders.clip.CLIPEncoder",
        "init_args": {"width": 32, "depth": 1, "heads": 4, "hidden": 48},
    }
    node["init_args"]["queries"]["class_path"] = f"{FixedQueryBank.__module__}.FixedQueryBank"
    model = randomise(build(json.loads(json.dumps(node))), 0.1)
    save_ocr2(model, tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert {"model.qwen2_model.query_768.weight", "vision.encoder.class_token"} <= names
    assert set(json.loads((tmp_path / "config.json").read_text())) == {"architecture"}
    again, weights = load_ocr2(tmp_path), model.state_dict()
    assert again.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.state_dict().items())


@pytest.mark.parametrize(
    ("part", "arguments"),
    [
        ("encoder", {"causal_queries": False}),
        ("queries", {"counts": {"768": 64, "1024": 256}}),
        ("decoder", {"attention": {"class_path": "mhc.Attention", "init_args": {"heads": 4, "query_key_norm": True}}}),
        (
            "decoder",
            {"dense_blocks": 2, "dense_feed_forward": {"class_path": "mhc.FeedForward", "init_args": {"hidden": 8}}},
        ),
    ],
)
def test_another_function_is_not_written_as_transformers(folder, part, arguments):
    assert set(to_config(build(changed(folder, part, **arguments)))) == {"architecture"}


@pytest.mark.parametrize(
    ("part", "arguments"),
    [
        ("decoder", {"recompute": "auto"}),
        ("queries", {"counts": {"768": None, "1024": None}}),
        ("encoder", {"topology": {"class_path": "mhc.Residual"}}),
        ("decoder", {"attention": {"class_path": "mhc.Attention", "init_args": {"heads": 4}}}),
    ],
)
def test_the_same_function_in_other_words_is(folder, part, arguments):
    assert "text_config" in to_config(build(changed(folder, part, **arguments)))


# errors


def altered(folder, tmp_path, alter):
    weights = load_file(folder / "model.safetensors")
    alter(weights)
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    return tmp_path


@pytest.mark.parametrize(
    ("alter", "named"),
    [
        (lambda w: w.pop("model.layers.1.mlp.experts.3.up_proj.weight"), r"lacks .*experts\.3\.up_proj\.weight"),
        (lambda w: w.update({"model.image_newline": torch.zeros(24)}), r"no place for: model\.image_newline"),
        (lambda w: w.update({"model.sam_model.net_3.weight": torch.zeros(40, 24, 3, 3)}), r"net_3\.weight \[40, 24"),
        (lambda w: w.update({"model.view_seperator": torch.zeros(25)}), r"view_seperator \[25\] .*separator \[24\]"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(folder, tmp_path, alter, named):
    with pytest.raises(CheckpointError, match=named):
        load_ocr2(altered(folder, tmp_path, alter))


def tiny_config(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("text_config.attention_bias", True),
        ("text_config.hidden_act", "gelu"),
        ("text_config.routed_scaling_factor", 2.0),
        ("text_config.topk_method", "group_limited_greedy"),
        ("text_config.rms_norm_eps", 1e-5),
        ("text_config.head_dim", 8),
        ("text_config.eos_token_id", [1, 2]),
        ("text_config.mlp_layer_types", ["sparse", "dense", "sparse"]),
        ("text_config.mlp_layer_types", ["dense", "sparse"]),
        ("text_config.num_experts_per_tok", None),
        ("text_config.rope_parameters.rope_type", "yarn"),
        ("text_config", None),
        ("vision_config.encoder_config.layer_types", ["sliding_attention"] * 2),
        ("vision_config.encoder_config.use_sliding_window", True),
        ("vision_config.encoder_config.rope_parameters.rope_type", "linear"),
        ("vision_config.sam_config.use_rel_pos", False),
        ("vision_config.sam_config.image_size", [256, 512]),
        ("vision_config.sam_config", 3),
    ],
)
def test_a_setting_that_our_parts_lack_is_named(folder, path, value):
    config = tiny_config(folder)
    *sections, key = path.split(".")
    inside = config
    for section in sections:
        inside = inside[section]
    inside[key] = value
    with pytest.raises(CheckpointError, match=path.replace(".", r"\.")):
        ocr2_node(config)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("language_config.use_mla", True),
        ("language_config.norm_topk_prob", True),
        ("language_config.moe_layer_freq", 2),
        ("language_config.scoring_func", "sigmoid"),
        ("language_config.first_k_dense_replace", None),
        ("projector_config.projector_type", "mlp_gelu"),
        ("projector_config.input_dim", 2048),
        ("vision_config.width", {"clip-l-14-224": {}}),
        ("vision_config.width.qwen2-0-5b.dim", 1024),
    ],
)
def test_a_released_setting_that_our_parts_lack_is_named(path, value):
    config = copy.deepcopy(RELEASED)
    *sections, key = path.split(".")
    inside = config
    for section in sections:
        inside = inside[section]
    inside[key] = value
    with pytest.raises(CheckpointError, match=path.replace(".", r"\.")):
        ocr2_node(config)


def test_files_that_are_no_model_are_named(folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_ocr2(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is no JSON file"):
        load_ocr2(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="model type 'llama'"):
        load_ocr2(tmp_path)
    node = {"class_path": "mhc.RMSNorm", "init_args": {"width": 3}}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": node}))
    with pytest.raises(CheckpointError, match="holds a RMSNorm and no OCR2"):
        load_ocr2(tmp_path)


def test_a_part_is_saved_and_loaded_by_itself(folder, tmp_path):
    first, second = load_ocr2(folder), randomise(load_ocr2(folder), 0.2)
    for part in ("decoder", "vision"):
        save_weights(getattr(first, part), tmp_path / part)
        load_weights(getattr(second, part), tmp_path / part)
    weights = first.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in second.state_dict().items())
    assert "embed_tokens.weight" in load_file(tmp_path / "decoder" / "model.safetensors")
