"""A model as transformers' DeepSeek-OCR 2, where that is the same function."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from encoders.causal_flow import CausalFlowEncoder
from encoders.ocr2 import OCR2
from encoders.query_bank import QueryBank
from encoders.released_config import COUNTS, ocr2_node
from encoders.sam import SAMTokenizer
from mhc import CausalLanguageModel, Residual, describe
from mhc.description import Node, class_path

PARTS = {
    "tokenizer": SAMTokenizer,
    "encoder": CausalFlowEncoder,
    "queries": QueryBank,
    "decoder": CausalLanguageModel,
}
# arguments that change no output of a loaded model at the released views
INDIFFERENT = {"recompute", "impl", "std", "stride", "unknown"}


def transformers_fields(model: OCR2, node: Node) -> dict[str, Any]:
    """The fields of the config.json that transformers reads for a model, none where its model is another function.

    Args:
        model: the model.
        node: what it was made with.
    """
    ours = _canonical(node)
    parts = ours["init_args"]
    queries = model.vision.queries
    if queries is None or any(
        (parts[name] or {}).get("class_path") != class_path(made) for name, made in PARTS.items()
    ):
        return {}
    parts["queries"]["init_args"]["counts"] = {str(side): count for side, count in queries.counts.items()}
    tokenizer, encoder, decoder = (parts[name]["init_args"] for name in ("tokenizer", "encoder", "decoder"))
    sublayers = {name: decoder[name] for name in ("attention", "feed_forward", "dense_feed_forward") if decoder[name]}
    attention, experts = sublayers["attention"]["init_args"], sublayers["feed_forward"]["init_args"]
    dense = sublayers.get("dense_feed_forward", sublayers["feed_forward"])["init_args"]
    blocks = decoder["dense_blocks"]
    if not {"experts", "chosen", "shared"} <= experts.keys() or not {"heads", "rotary_base"} <= attention.keys():
        return {}
    attention["key_value_heads"] = attention["key_value_heads"] or attention["heads"]
    sam = {
        "hidden_size": tokenizer["width"],
        "num_hidden_layers": tokenizer["depth"],
        "num_attention_heads": tokenizer["heads"],
        "mlp_dim": tokenizer["hidden"],
        "mlp_ratio": tokenizer["hidden"] / tokenizer["width"],
        "window_size": tokenizer["window"],
        "global_attn_indexes": tokenizer["global_blocks"],
        "image_size": tokenizer["image_size"],
        "patch_size": tokenizer["patch"],
        "output_channels": tokenizer["neck"],
        "downsample_channels": tokenizer["compressor"],
    }
    flow = {
        "hidden_size": encoder["width"],
        "num_hidden_layers": encoder["depth"],
        "num_attention_heads": encoder["heads"],
        "num_key_value_heads": encoder["key_value_heads"],
        "intermediate_size": encoder["hidden"],
        "rope_parameters": {"rope_type": "default", "rope_theta": encoder["rotary_base"]},
    }
    text = {
        "vocab_size": decoder["vocabulary_size"],
        "hidden_size": decoder["width"],
        "num_hidden_layers": decoder["depth"],
        "num_attention_heads": attention["heads"],
        "num_key_value_heads": attention["key_value_heads"],
        "rope_parameters": {"rope_type": "default", "rope_theta": attention["rotary_base"]},
        "intermediate_size": dense["hidden"],
        "moe_intermediate_size": experts["hidden"],
        "n_routed_experts": experts["experts"],
        "num_experts_per_tok": experts["chosen"],
        "n_shared_experts": experts["shared"],
        "mlp_layer_types": ["dense"] * blocks + ["sparse"] * (decoder["depth"] - blocks),
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "greedy",
        "max_position_embeddings": 8192,
        "bos_token_id": 0,
        "eos_token_id": parts["end_token"],
        "pad_token_id": parts["padding_token"],
    }
    fields = {
        "architectures": ["DeepseekOcr2ForConditionalGeneration"],
        "model_type": "deepseek_ocr2",
        "dtype": str(model.decoder.embedding.weight.dtype).removeprefix("torch."),
        "image_token_id": parts["image_token"],
        "tie_word_embeddings": decoder["tied"],
        "vision_config": {
            "model_type": "deepseek_ocr2_vision",
            "sam_config": {"model_type": "deepseek_ocr2_sam_vision_model"} | sam,
            "encoder_config": {"model_type": "deepseek_ocr2_encoder"} | flow,
        },
        "text_config": {"model_type": "deepseek_ocr2_text"} | text,
    }
    theirs = _canonical(ocr2_node(fields))
    theirs["init_args"]["queries"]["init_args"]["counts"] = {str(side): count for side, count in COUNTS.items()}
    # what they cannot say, such as a topology, is not the same when read back
    return fields if theirs == ours else {}


def _canonical(value: Any) -> Any:
    """A description with every default filled in, so that two of them are equal where their models are."""
    if isinstance(value, Mapping) and "class_path" in value:
        module, _, name = value["class_path"].rpartition(".")
        made = getattr(importlib.import_module(module), name)
        arguments = {
            name: parameter.default
            for name, parameter in inspect.signature(made).parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }
        arguments |= value.get("init_args") or {}
        if "topology" in arguments and arguments["topology"] is None:
            arguments["topology"] = Residual
        kept = {name: _canonical(argument) for name, argument in arguments.items() if name not in INDIFFERENT}
        return {"class_path": class_path(made), "init_args": kept}
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    return _canonical(describe(value)) if isinstance(value, type) else value
