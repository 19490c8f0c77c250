"""The models whose optimizer step is measured: ours as a configuration has it, its plain form, and transformers'."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.benchmark.rounds import CannotMeasure
from encoders.ocr2 import OCR2
from encoders.transformers_config import transformers_fields
from encoders.views import ImageBatch
from mhc import build, describe

RESIDUAL = {"class_path": "mhc.Residual"}


class Trained(NamedTuple):
    """A model, its loss on tokens and images, and its modules by part."""

    model: nn.Module
    loss: Callable[[Tensor, ImageBatch], Tensor]
    parts: Mapping[str, Sequence[nn.Module]]


def plain(node: Any) -> Any:
    """A node whose every topology is the plain residual, which recomputes nothing."""
    if isinstance(node, Mapping):
        kept = {key: plain(value) for key, value in node.items() if key != "recompute"}
        return kept | ({"topology": RESIDUAL} if "topology" in kept else {})
    return [plain(item) for item in node] if isinstance(node, list) else node


def ours(node: Mapping[str, Any]) -> Trained:
    """The model of a node, in bf16, on the default device."""
    network: OCR2 = build(node).to(torch.bfloat16).train()
    vision, decoder = network.vision, network.decoder
    parts = {"tokenizer": vision.tokenizer, "encoder": vision.encoder, "embedding": decoder.embedding}
    return Trained(
        network,
        lambda tokens, images: loss_of(network, tokens, images),
        {name: [module] for name, module in parts.items()} | {"decoder": [decoder]},
    )


def theirs(node: Mapping[str, Any]) -> Trained:
    """Transformers' model of the same parts and sizes, in bf16, on the default device; its weights are its own.

    Raises:
        CannotMeasure: transformers is missing, or has no such model.
    """
    try:
        from transformers.models.deepseek_ocr2 import configuration_deepseek_ocr2 as configuration
        from transformers.models.deepseek_ocr2 import modeling_deepseek_ocr2 as modeling
    except ImportError as error:
        raise CannotMeasure(f"transformers' model cannot be imported ({error})") from None
    with torch.device("meta"):
        same = build(node)
    fields = transformers_fields(same, describe(same))
    if not fields:
        raise CannotMeasure("transformers has no model of these parts")
    known = {name: fields[name] for name in ("image_token_id", "tie_word_embeddings", "vision_config", "text_config")}
    whole: Any = modeling.DeepseekOcr2ForConditionalGeneration(configuration.DeepseekOcr2Config(**known))
    whole = whole.to(torch.bfloat16).train()
    tower, language = whole.model.vision_tower, whole.model.language_model

    def loss(tokens: Tensor, images: ImageBatch) -> Tensor:
        return whole(
            input_ids=tokens,
            pixel_values=images.pages,
            pixel_values_local=images.crops,
            num_local_patches=list(images.crop_counts),
            labels=labels_of(tokens, fields["image_token_id"]),
            use_cache=False,
        ).loss

    parts = {"tokenizer": tower.sam_encoder, "encoder": tower.vision_encoder, "embedding": language.embed_tokens}
    return Trained(whole, loss, {name: [part] for name, part in parts.items()} | {"decoder": [language, whole.lm_head]})


def loss_of(network: OCR2, tokens: Tensor, images: ImageBatch) -> Tensor:
    """Cross-entropy of the tokens that follow, in nats; image slots are not asked for."""
    labels = labels_of(tokens, network.image_token)
    return F.cross_entropy(network(tokens, images)[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())


def labels_of(tokens: Tensor, image_token: int) -> Tensor:
    """The tokens, and -100 in the image slots."""
    return tokens.masked_fill(tokens == image_token, -100)
