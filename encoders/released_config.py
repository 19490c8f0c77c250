"""The config.json of DeepSeek-OCR 2, as released or as transformers writes it, as the node of our model."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from encoders.causal_flow import CausalFlowEncoder
from encoders.checkpoint import CheckpointError
from encoders.ocr2 import OCR2
from encoders.query_bank import QueryBank
from encoders.sam import SAMTokenizer
from encoders.settings import Settings
from mhc import Attention, CausalLanguageModel, Residual, SwiGLU, describe
from mhc.description import Node
from mhc.mixture_of_experts import MixtureOfExperts

COUNTS: dict[int, int | None] = {768: 144, 1024: 256}
# what the released code has and its config.json does not say
QWEN2_HALF_BILLION: dict[str, Any] = {
    "width": 896,
    "depth": 24,
    "heads": 14,
    "key_value_heads": 2,
    "hidden": 4864,
    "rotary_base": 1e6,
}
SAM_BASE: dict[str, Any] = {"window": 14, "neck": 256, "patch": 16}

SAM = {
    "attention_dropout": 0.0,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "num_channels": 3,
    "qkv_bias": True,
    "use_abs_pos": True,
    "use_rel_pos": True,
}
SWIGLU = {"hidden_act": "silu", "rms_norm_eps": 1e-6}
DEEPSEEK = SWIGLU | {
    "attention_bias": False,
    "mlp_bias": False,
    "moe_layer_freq": 1,
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
    "topk_method": "greedy",
    "use_mla": False,
}


def ocr2_node(config: Mapping[str, Any]) -> Node:
    """The node of the model that a config.json describes: ours, the released one's, or transformers'.

    Raises:
        CheckpointError: another model, a key that is missing, or a setting that our parts do not know.
    """
    settings = Settings(config)
    if "architecture" in settings:
        return dict(settings.section("architecture").values)
    if settings.get("model_type", None) == "deepseek_ocr2":
        return _transformers_node(settings)
    if "language_config" in settings and "vision_config" in settings:
        return _released_node(settings)
    raise CheckpointError(
        f"config.json is of the model type {settings.get('model_type', None)!r}: it needs our architecture, "
        "'deepseek_ocr2', or the released language_config and vision_config"
    )


def _released_node(settings: Settings) -> Node:
    language = settings.section("language_config")
    width = settings.section("vision_config").section("width")
    sam, encoder = width.section("sam_vit_b"), width.section("qwen2-0-5b")
    encoder.require("dim", QWEN2_HALF_BILLION["width"])
    tokenizer = partial(
        SAMTokenizer,
        width=sam["width"],
        depth=sam["layers"],
        heads=sam["heads"],
        hidden=4 * sam["width"],
        global_blocks=sam["global_attn_indexes"],
        image_size=settings.section("vision_config").get("image_size", 1024),
        **SAM_BASE,
        # the file still gives OCR 1's last channels, the code those of the encoder
        compressor=[*sam["downsample_channels"][:-1], encoder["dim"]],
    )
    if "projector_config" in settings:
        projector = settings.section("projector_config")
        wanted = {"projector_type": "linear", "input_dim": encoder["dim"], "n_embed": language["hidden_size"]}
        for key, value in wanted.items():
            projector.require(key, value)
    return _node(tokenizer, partial(CausalFlowEncoder, **QWEN2_HALF_BILLION), language, settings)


def _transformers_node(settings: Settings) -> Node:
    vision = settings.section("vision_config")
    sam, encoder = vision.section("sam_config"), vision.section("encoder_config")
    sam.require_all(SAM)
    encoder.require_all(SWIGLU)
    width, heads = encoder["hidden_size"], encoder["num_attention_heads"]
    encoder.require_plain_attention(width // heads)
    tokenizer = partial(
        SAMTokenizer,
        width=sam["hidden_size"],
        depth=sam["num_hidden_layers"],
        heads=sam["num_attention_heads"],
        hidden=sam["mlp_dim"] if "mlp_dim" in sam else int(sam["hidden_size"] * sam["mlp_ratio"]),
        window=sam["window_size"],
        global_blocks=sam["global_attn_indexes"],
        image_size=sam.side("image_size"),
        patch=sam.side("patch_size"),
        neck=sam["output_channels"],
        compressor=sam["downsample_channels"],
    )
    flow = partial(
        CausalFlowEncoder,
        width=width,
        depth=encoder["num_hidden_layers"],
        heads=heads,
        key_value_heads=encoder.get("num_key_value_heads", heads),
        hidden=encoder["intermediate_size"],
        rotary_base=encoder.rotary_base(10000.0),
    )
    return _node(tokenizer, flow, settings.section("text_config"), settings)


def _node(tokenizer: partial, encoder: partial, language: Settings, settings: Settings) -> Node:
    tokens: dict[str, Any] = {}
    for argument, (section, key) in {
        "image_token": (settings, "image_token_id"),
        "end_token": (language, "eos_token_id"),
        "padding_token": (language, "pad_token_id"),
    }.items():
        if key in section:
            if not isinstance(section[key], int):
                raise CheckpointError(f"{section.name(key)} of config.json must be one token, got {section[key]!r}")
            tokens[argument] = section[key]
    queries = partial(QueryBank, width=encoder.keywords["width"], counts=COUNTS)
    parts: dict[str, Any] = {"tokenizer": tokenizer, "encoder": encoder, "queries": queries}
    parts["decoder"] = decoder_of(language, tied=settings.get("tie_word_embeddings", False))
    return describe(partial(OCR2, **parts, **tokens))


def decoder_of(language: Settings, *, tied: bool) -> partial:
    """The decoder that the settings of a DeepSeek language model describe, as a factory.

    Args:
        language: its section of config.json.
        tied: the head is the embedding.

    Raises:
        CheckpointError: a key that is missing, or a setting that our parts do not know.
    """
    language.require_all(DEEPSEEK)
    width, heads, depth = language["hidden_size"], language["num_attention_heads"], language["num_hidden_layers"]
    language.require_plain_attention(width // heads)
    dense = partial(SwiGLU, hidden=language["intermediate_size"])
    blocks = _dense_blocks(language, depth)
    feed_forward: partial = dense
    if blocks < depth:
        feed_forward = partial(
            MixtureOfExperts,
            experts=language["n_routed_experts"],
            chosen=language["num_experts_per_tok"],
            hidden=language["moe_intermediate_size"],
            shared=language.get("n_shared_experts", 0),
        )
    attention = partial(
        Attention,
        heads=heads,
        key_value_heads=language.get("num_key_value_heads", heads),
        rotary_base=language.rotary_base(10000.0),
    )
    parts: dict[str, Any] = {"topology": Residual, "attention": attention, "feed_forward": feed_forward}
    if 0 < blocks < depth:
        parts |= {"dense_feed_forward": dense, "dense_blocks": blocks}
    return partial(
        CausalLanguageModel, vocabulary_size=language["vocab_size"], width=width, depth=depth, tied=tied, **parts
    )


def _dense_blocks(language: Settings, depth: int) -> int:
    if "mlp_layer_types" in language:
        kinds = language["mlp_layer_types"]
        blocks = kinds.count("dense")
        if kinds != ["dense"] * blocks + ["sparse"] * (depth - blocks):
            raise CheckpointError(
                f"{language.name('mlp_layer_types')} of config.json must be dense and then sparse layers, {depth} in "
                f"all, got {kinds}"
            )
        return blocks
    if "n_routed_experts" not in language:
        return depth
    return min(language["first_k_dense_replace"], depth)
