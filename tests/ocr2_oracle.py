"""transformers' DeepSeek-OCR 2 at tiny widths, random weights, as the oracle of the whole model."""

from pathlib import Path

import torch
from torch import Tensor

IMAGE_TOKEN = 7
VOCABULARY = 101
ENCODER = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6},
)


def tiny_oracle(seed: int = 0, std: float = 0.15):
    """DeepseekOcr2ForConditionalGeneration with full-size views and query banks, every parameter normal of `std`."""
    from transformers.models.deepseek_ocr2.configuration_deepseek_ocr2 import DeepseekOcr2Config
    from transformers.models.deepseek_ocr2.modeling_deepseek_ocr2 import DeepseekOcr2ForConditionalGeneration

    tokenizer = dict(
        hidden_size=16,
        output_channels=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=1024,
        patch_size=16,
        window_size=14,
        global_attn_indexes=[1],
        mlp_ratio=2.0,
        downsample_channels=[12, 32],
    )
    decoder = dict(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_routed_experts=8,
        n_shared_experts=2,
        num_experts_per_tok=3,
        mlp_layer_types=["dense", "sparse", "sparse"],
        n_group=1,
        topk_group=1,
        topk_method="greedy",
        max_position_embeddings=4096,
        pad_token_id=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    config = DeepseekOcr2Config(
        vision_config={"sam_config": tokenizer, "encoder_config": ENCODER},
        text_config=decoder,
        image_token_id=IMAGE_TOKEN,
    )
    model = DeepseekOcr2ForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = std * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + noise if "norm" in name and name.endswith("weight") else noise)
    return model


def save(model, folder: Path) -> Path:
    """The checkpoint that transformers writes of it."""
    model.save_pretrained(folder)
    return folder


def mixed_batch(crop_counts: tuple[int, ...] = (2, 0), seed: int = 1) -> dict[str, Tensor]:
    """Rows padded on the left: the images of `crop_counts` in the first row and the second, and a row of text alone."""
    generator = torch.Generator().manual_seed(seed)

    def text(length: int) -> list[int]:
        return torch.randint(8, VOCABULARY, (length,), generator=generator).tolist()

    rows = [[0, *text(2), *[IMAGE_TOKEN] * (count * 144 + 257), *text(5)] for count in crop_counts]
    rows.append([0, *text(11)])
    longest = max(map(len, rows))
    tokens = torch.tensor([[2] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in rows])
    pages = torch.randn(len(crop_counts), 3, 1024, 1024, generator=generator)
    crops = torch.randn(sum(crop_counts), 3, 768, 768, generator=generator)
    return {"tokens": tokens, "mask": mask, "pages": pages, "crops": crops}
