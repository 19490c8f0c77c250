"""The released names of the vision side, and of the whole model (deepseek-ai/DeepSeek-OCR-2)."""

from typing import Any

from encoders.causal_flow import CausalFlowEncoder
from encoders.deep_encoder import DeepEncoder
from encoders.ocr2 import OCR2
from encoders.query_bank import QueryBank
from encoders.sam import SAMTokenizer
from mhc.names import Names, Slot, known_names, placed, released_names, trunk_names, whole

__all__ = ["Names", "Slot", "released_names"]

LANGUAGE_MODEL = "qwen2_model.model.model."


@known_names.register
def _sam_tokenizer(module: SAMTokenizer) -> Names:
    names = whole(module.patch, at="patch.", under="patch_embed.proj.")
    names["pos_embed"] = Slot("positions")
    sublayers: list[Any] = list(module.trunk.sublayers)
    for block in range(len(sublayers) // 2):
        under, at = f"blocks.{block}.", f"trunk.sublayers.{2 * block}."
        attention = sublayers[2 * block]
        names |= whole(attention.norm, at=f"{at}norm.", under=f"{under}norm1.")
        names |= whole(attention.query_key_value, at=f"{at}query_key_value.", under=f"{under}attn.qkv.")
        names |= whole(attention.output, at=f"{at}output.", under=f"{under}attn.proj.")
        names |= {
            f"{under}attn.rel_pos_h": Slot(f"{at}relative_rows"),
            f"{under}attn.rel_pos_w": Slot(f"{at}relative_columns"),
        }
        feed_forward, at = sublayers[2 * block + 1], f"trunk.sublayers.{2 * block + 1}."
        names |= whole(feed_forward.norm, at=f"{at}norm.", under=f"{under}norm2.")
        names |= whole(feed_forward.up, at=f"{at}up.", under=f"{under}mlp.lin1.")
        names |= whole(feed_forward.down, at=f"{at}down.", under=f"{under}mlp.lin2.")
    names |= whole(module.neck, at="neck.", under="neck.")
    for index, convolution in enumerate(module.compressor):
        names |= whole(convolution, at=f"compressor.{index}.", under=f"net_{index + 2}.")
    return names


@known_names.register
def _causal_flow(module: CausalFlowEncoder) -> Names:
    return trunk_names(module.trunk) | whole(module.norm, at="norm.", under="norm.")


@known_names.register
def _query_bank(module: QueryBank) -> Names:
    return {f"query_{side}.weight": Slot(f"banks.{side}") for side in module.banks.state_dict()}


@known_names.register
def _deep_encoder(module: DeepEncoder) -> Names:
    names = placed(known_names(module.tokenizer), at="tokenizer.", under="sam_model.")
    names |= placed(known_names(module.encoder), at="encoder.", under=LANGUAGE_MODEL)
    if module.queries is not None:
        names |= placed(known_names(module.queries), at="queries.", under="qwen2_model.")
    names |= whole(module.projector, at="projector.", under="projector.layers.")
    return names | {"view_seperator": Slot("separator")}


@known_names.register
def _ocr2(module: OCR2) -> Names:
    names = placed(known_names(module.vision), at="vision.", under="model.")
    for name, slot in placed(known_names(module.decoder), at="decoder.", under="").items():
        names[name if name.startswith("lm_head.") else f"model.{name}"] = slot
    return names
