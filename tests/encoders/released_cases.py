"""Configurations of the released layout: at full size, and tiny."""

import torch
from ocr2_oracle import ENCODER

LANGUAGE = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "bos_token_id": 0,
    "eos_token_id": 1,
    "first_k_dense_replace": 1,
    "hidden_size": 1280,
    "intermediate_size": 6848,
    "kv_lora_rank": None,
    "max_position_embeddings": 8192,
    "moe_intermediate_size": 896,
    "n_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_attention_heads": 10,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 12,
    "num_key_value_heads": 10,
    "qk_nope_head_dim": 0,
    "topk_group": 1,
    "topk_method": "greedy",
    "torch_dtype": "bfloat16",
    "use_mla": False,
    "v_head_dim": 0,
    "vocab_size": 129280,
}
# in the form of deepseek-ai/DeepSeek-OCR-2, by its published dimensions
RELEASED = {
    "architectures": ["DeepseekOCR2ForCausalLM"],
    "candidate_resolutions": [[1024, 1024]],
    "global_view_pos": "head",
    "language_config": LANGUAGE,
    "model_type": "deepseek_vl_v2",
    "projector_config": {
        "input_dim": 896,
        "model_type": "mlp_projector",
        "n_embed": 1280,
        "projector_type": "linear",
    },
    "tile_tag": "2D",
    "torch_dtype": "bfloat16",
    "vision_config": {
        "image_size": 1024,
        "mlp_ratio": 3.7362,
        "model_name": "deepencoderv2",
        "model_type": "vision",
        "width": {
            "qwen2-0-5b": {"dim": 896},
            "sam_vit_b": {
                "downsample_channels": [512, 1024],
                "global_attn_indexes": [2, 5, 8, 11],
                "heads": 12,
                "layers": 12,
                "width": 768,
            },
        },
    },
}
TINY = {
    "vision_config": {
        "sam_config": dict(
            hidden_size=32,
            output_channels=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=256,
            window_size=7,
            global_attn_indexes=[1],
            mlp_ratio=2.0,
            downsample_channels=[24, 32],
        ),
        "encoder_config": ENCODER,
    },
    "text_config": dict(
        vocab_size=37,
        hidden_size=24,
        intermediate_size=40,
        moe_intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        n_routed_experts=5,
        n_shared_experts=2,
        num_experts_per_tok=2,
        mlp_layer_types=["dense", "sparse", "sparse"],
        n_group=1,
        topk_group=1,
        pad_token_id=2,
        bos_token_id=0,
        eos_token_id=1,
    ),
    "image_token_id": 7,
}


def full_transformers():
    """transformers' model at the released dimensions, without memory."""
    text = {key: value for key, value in LANGUAGE.items() if key not in ("first_k_dense_replace", "architectures")}
    encoder = dict(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14)
    from transformers.models.deepseek_ocr2 import configuration_deepseek_ocr2 as configuration
    from transformers.models.deepseek_ocr2 import modeling_deepseek_ocr2 as modeling

    config = configuration.DeepseekOcr2Config(
        vision_config={"sam_config": {}, "encoder_config": encoder | {"num_key_value_heads": 2}},
        text_config=text | {"mlp_layer_types": ["dense"] + ["sparse"] * 11},
    )
    with torch.device("meta"):
        return modeling.DeepseekOcr2ForConditionalGeneration(config)
