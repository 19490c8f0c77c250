"""Each part from a source of its own, as transformers writes it: the same weights, and the same function."""

import json
import shutil
from functools import partial

import pytest
import torch
from helpers import FP32, randomise, relative_error

from encoders.causal_flow import CausalFlowEncoder
from encoders.checkpoint import CheckpointError
from encoders.pretrained import load_causal_flow, load_decoder, load_sam
from encoders.sam import SAMTokenizer
from mhc import Attention, CausalLanguageModel, ManifoldHyperConnection, Residual, SwiGLU
from mhc.mixture_of_experts import MixtureOfExperts

transformers = pytest.importorskip("transformers")

VOCABULARY = 29
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "n_routed_experts": 5,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "n_group": 1,
    "topk_group": 1,
    "max_position_embeddings": 64,
}
SAM = {
    "hidden_size": 32,
    "output_channels": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 256,
    "patch_size": 16,
    "window_size": 7,
    "global_attn_indexes": [1],
}


def saved(model, folder):
    """The folder that transformers writes of a model with random weights."""
    randomise(model, 0.2).eval().save_pretrained(folder)
    return folder


def snapshot(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_unchanged(module, before):
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


# the causal-flow encoder


def flow(**changes):
    sizes = {"width": 32, "depth": 2, "heads": 4, "key_value_heads": 2, "hidden": 48, "rotary_base": 1e6}
    return randomise(CausalFlowEncoder(**sizes | changes), 0.1)


def qwen2(kind="Qwen2ForCausalLM", **changes):
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    config = transformers.Qwen2Config(vocab_size=VOCABULARY, num_key_value_heads=2, **sizes | rope | changes)
    return getattr(transformers, kind)(config)


@pytest.mark.parametrize("kind", ["Qwen2ForCausalLM", "Qwen2Model"])
@torch.no_grad()
def test_causal_flow_from_qwen2(tmp_path, kind):
    source, encoder = qwen2(kind), flow()
    load_causal_flow(encoder, saved(source, tmp_path))
    body = getattr(source, "model", source)
    for block, layer in enumerate(body.layers):
        attention, feed_forward = encoder.trunk.sublayers[2 * block : 2 * block + 2]
        theirs = layer.self_attn
        for kind in ("weight", "bias"):
            rows = torch.cat([getattr(p, kind) for p in (theirs.q_proj, theirs.k_proj, theirs.v_proj)])
            assert torch.equal(getattr(attention.query_key_value, kind), rows)
        assert torch.equal(feed_forward.down.weight, layer.mlp.down_proj.weight)
    # one query behind a prefix sees everything, as the last token of a causal model does behind a single token
    x = torch.randn(2, 2, 32)
    ours = encoder(x[:, :1], x[:, 1:], (1, 1))
    assert relative_error(ours, body(inputs_embeds=x).last_hidden_state[:, 1:]) <= FP32


def test_causal_flow_with_other_topologies_and_from_tied_weights(tmp_path):
    source = qwen2(tie_word_embeddings=True)
    encoder = flow(topology=partial(ManifoldHyperConnection, streams=2))
    before = snapshot(encoder.trunk.topologies)
    load_causal_flow(encoder, saved(source, tmp_path))
    assert before
    assert_unchanged(encoder.trunk.topologies, before)
    assert torch.equal(encoder.norm.weight, source.model.norm.weight)


@pytest.mark.parametrize(
    ("source", "encoder", "named"),
    [
        ({}, {"depth": 1}, r"no place for: model\.layers\.1\.input_layernorm"),
        ({}, {"depth": 3}, r"lacks model\.layers\.2\."),
        ({}, {"hidden": 64}, r"gate_proj\.weight \[48, 32\] .* \[64, 32\]"),
        ({}, {"heads": 8, "key_value_heads": 4}, "num_attention_heads of config.json is 4"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, {}, "rotary base of the source is 10000"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e6, "factor": 2.0}}, {}, "rope_type"),
        ({"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, {}, "use_sliding_window"),
        ({"hidden_act": "gelu"}, {}, "hidden_act"),
        ({"rms_norm_eps": 1e-5}, {}, "rms_norm_eps"),
    ],
)
def test_a_language_model_that_does_not_fit_is_refused(tmp_path, source, encoder, named):
    made = flow(**encoder)
    before = snapshot(made)
    with pytest.raises(CheckpointError, match=named):
        load_causal_flow(made, saved(qwen2(**source), tmp_path))
    assert_unchanged(made, before)


def test_another_model_is_refused(tmp_path):
    folder = saved(qwen2(), tmp_path)
    with pytest.raises(CheckpointError, match=r"pos_embed.*another model"):
        load_sam(sam(), folder)


# the tokenizer


def sam(**changes):
    sizes = dict(width=32, depth=2, heads=2, hidden=64, window=7, global_blocks=(1,), image_size=256, neck=16)
    return randomise(SAMTokenizer(**sizes | {"compressor": (24, 32)} | changes), 0.1)


def sam_source(kind):
    vision = transformers.SamVisionConfig(**SAM, mlp_dim=64)
    if kind == "SamVisionModel":
        return transformers.SamVisionModel(vision)
    prompts = {"hidden_size": 16, "image_size": 256, "image_embedding_size": 16}
    masks = dict(hidden_size=16, mlp_dim=8, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=8)
    return transformers.SamModel(
        transformers.SamConfig(vision_config=vision.to_dict(), prompt_encoder_config=prompts, mask_decoder_config=masks)
    )


@pytest.mark.parametrize("kind", ["SamVisionModel", "SamModel"])
@torch.no_grad()
def test_tokenizer_from_sam(tmp_path, kind):
    source, tokenizer = sam_source(kind), sam()
    before = snapshot(tokenizer.compressor)
    load_sam(tokenizer, saved(source, tmp_path))
    assert_unchanged(tokenizer.compressor, before)
    bare = sam(compressor=())
    load_sam(bare, tmp_path)
    pixels = torch.randn(1, 3, 256, 256)
    expected = source.vision_encoder(pixels).last_hidden_state.flatten(2).mT
    assert relative_error(bare(pixels), expected) <= FP32
    weights = tokenizer.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in bare.state_dict().items())


def ocr1(channels):
    from transformers.models.unlimited_ocr import configuration_unlimited_ocr as configuration
    from transformers.models.unlimited_ocr import modeling_unlimited_ocr as modeling

    tokenizer = SAM | {"mlp_dim": 64, "downsample_channels": [24, channels]}
    encoder = dict(hidden_size=channels, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4)
    return modeling.UnlimitedOcrForConditionalGeneration(
        configuration.UnlimitedOcrConfig(
            vision_config={"sam_config": tokenizer, "encoder_config": encoder}, text_config=TEXT, image_token_id=7
        )
    )


@torch.no_grad()
def test_tokenizer_from_ocr1(tmp_path):
    source, tokenizer = ocr1(32), sam()
    load_sam(tokenizer, saved(source, tmp_path))
    pixels = torch.randn(1, 3, 256, 256)
    expected = source.model.vision_tower.sam_encoder(pixels).last_hidden_state.flatten(2).mT
    assert relative_error(tokenizer(pixels), expected) <= FP32


def test_the_last_convolution_of_ocr1_may_start_anew(tmp_path):
    source, tokenizer = ocr1(40), sam()
    before = snapshot(tokenizer)
    with pytest.raises(CheckpointError, match=r"net_3\.weight \[40, 24, 3, 3\].*compressor\.1\.weight.*fresh"):
        load_sam(tokenizer, saved(source, tmp_path))
    assert_unchanged(tokenizer, before)
    load_sam(tokenizer, tmp_path, fresh=["compressor.1.*"])
    assert torch.equal(tokenizer.compressor[1].weight, before["compressor.1.weight"])
    assert torch.equal(tokenizer.compressor[0].weight, source.model.vision_tower.sam_encoder.proj.conv1.weight)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"image_size": 512}, r"pos_embed \[1, 16, 16, 32\]"),
        ({"heads": 4}, "num_attention_heads of config.json is 2"),
        ({"window": 8}, "window_size of config.json is 7"),
        ({"depth": 1, "global_blocks": (0,)}, r"no place for: .*layers\.1"),
    ],
)
def test_a_sam_that_does_not_fit_is_refused(tmp_path, changes, named):
    tokenizer = sam(**changes)
    before = snapshot(tokenizer)
    with pytest.raises(CheckpointError, match=named):
        load_sam(tokenizer, saved(sam_source("SamVisionModel"), tmp_path))
    assert_unchanged(tokenizer, before)


# the decoder


def decoder(**changes):
    parts = {
        "topology": Residual,
        "attention": partial(Attention, heads=4, key_value_heads=2),
        "feed_forward": partial(MixtureOfExperts, experts=5, chosen=2, hidden=16, shared=2),
        "dense_feed_forward": partial(SwiGLU, hidden=40),
        "dense_blocks": 1,
        "tied": False,
    }
    return randomise(CausalLanguageModel(VOCABULARY, 24, 3, **parts | changes), 0.1)


def ocr2(**changes):
    from transformers.models.deepseek_ocr2 import configuration_deepseek_ocr2 as configuration
    from transformers.models.deepseek_ocr2 import modeling_deepseek_ocr2 as modeling

    tokenizer = SAM | {"mlp_dim": 64, "downsample_channels": [24, 32]}
    encoder = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    encoder |= {"num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    return modeling.DeepseekOcr2ForConditionalGeneration(
        configuration.DeepseekOcr2Config(
            vision_config={"sam_config": tokenizer, "encoder_config": encoder},
            text_config=TEXT | changes,
            image_token_id=7,
        )
    )


def deepseek(folder, prefix="model."):
    """The language model of a checkpoint, as DeepSeek's mixtures of experts are released: a tensor an expert."""
    from safetensors.torch import load_file, save_file

    source = saved(ocr2(), folder / "whole")
    weights = load_file(source / "model.safetensors")
    parts = ("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")
    bare = folder / "bare"
    bare.mkdir()
    kept = {name: weight for name, weight in weights.items() if name.startswith(parts)}
    save_file({name.replace("model.", prefix): weight for name, weight in kept.items()}, bare / "model.safetensors")
    config = json.loads((source / "config.json").read_text())["text_config"]
    (bare / "config.json").write_text(json.dumps(config))
    return bare, transformers.AutoModelForImageTextToText.from_pretrained(source)


@torch.no_grad()
def logits_equal(ours, source):
    tokens = torch.randint(8, VOCABULARY, (2, 9))
    return relative_error(ours(tokens), source(input_ids=tokens).logits) <= FP32


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_decoder_from_a_deepseek_mixture_of_experts(tmp_path, prefix):
    folder, source = deepseek(tmp_path, prefix)
    ours = decoder()
    load_decoder(ours, folder)
    assert torch.equal(ours.head.weight, source.lm_head.weight)
    stack = source.model.language_model.layers[2].mlp.experts
    assert torch.equal(ours.trunk.sublayers[5].gate_up, stack.gate_up_proj)
    assert torch.equal(ours.trunk.sublayers[5].down, stack.down_proj)
    assert logits_equal(ours, source)


def test_parts_from_a_whole_ocr2(tmp_path):
    source = ocr2()
    saved(source, tmp_path)
    ours, encoder, tokenizer = decoder(), flow(), sam()
    load_decoder(ours, tmp_path)
    assert logits_equal(ours, source)
    load_causal_flow(encoder, tmp_path)
    assert torch.equal(encoder.norm.weight, source.model.vision_tower.vision_encoder.norm.weight)
    load_sam(tokenizer, tmp_path)
    assert torch.equal(tokenizer.compressor[1].weight, source.model.vision_tower.sam_encoder.proj.conv2.weight)


def test_decoder_from_stacked_experts_without_a_head(tmp_path):
    source = ocr2().model.language_model
    ours = decoder()
    before = ours.head.weight.clone()
    saved(source, tmp_path)
    with pytest.raises(CheckpointError, match=r"lacks lm_head\.weight"):
        load_decoder(ours, tmp_path)
    load_decoder(ours, tmp_path, fresh=["head.*"])
    assert torch.equal(ours.head.weight, before)
    tokens = torch.randint(8, VOCABULARY, (2, 9))
    with torch.no_grad():
        hidden = ours.norm(ours.trunk(ours.embedding(tokens)))
        assert relative_error(hidden, source(input_ids=tokens).last_hidden_state) <= FP32


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"feed_forward": partial(MixtureOfExperts, experts=5, chosen=3, hidden=16)}, "num_experts_per_tok .* is 2"),
        ({"feed_forward": partial(MixtureOfExperts, experts=4, chosen=2, hidden=16)}, r"mlp\.gate\.weight \[5, 24\]"),
        ({"attention": partial(Attention, heads=2, key_value_heads=1)}, "num_attention_heads .* is 4"),
        ({"attention": partial(Attention, heads=4, key_value_heads=2, rotary_base=5e4)}, "rotary base .* is 10000"),
        ({"tied": True}, r"no place for: lm_head\.weight"),
        ({"dense_blocks": 2}, r"layers\.1\.mlp"),
    ],
)
def test_a_mixture_of_experts_that_does_not_fit_is_refused(tmp_path, changes, named):
    made = decoder(**changes)
    before = snapshot(made)
    with pytest.raises(CheckpointError, match=named):
        load_decoder(made, saved(ocr2(), tmp_path))
    assert_unchanged(made, before)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention_bias", True),
        ("layer_types", ["sliding_attention"] * 3),
        ("norm_topk_prob", True),
        ("routed_scaling_factor", 2.5),
        ("scoring_func", "sigmoid"),
        ("topk_method", "group_limited_greedy"),
        ("use_mla", True),
    ],
)
def test_settings_of_a_decoder_that_ours_lacks_are_named(tmp_path, key, value):
    folder = shutil.copytree(saved(ocr2(), tmp_path / "source"), tmp_path / "changed")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=rf"text_config\.{key} of config\.json"):
        load_decoder(decoder(), folder)
