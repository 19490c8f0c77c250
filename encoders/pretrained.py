"""Parts of a model from pretrained sources of their own, as stages 1 and 2 start (arXiv 2601.20552, section 4)."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from encoders.causal_flow import CausalFlowEncoder
from encoders.checkpoint import Checkpoint, CheckpointError, load_weights, read_json
from encoders.names import LANGUAGE_MODEL, released_names
from encoders.released_config import DEEPSEEK, SAM, SWIGLU
from encoders.sam import SAMTokenizer
from encoders.settings import Settings
from mhc import Attention, CausalLanguageModel
from mhc.mixture_of_experts import MixtureOfExperts
from mhc.names import Names, Slot

Folder = str | os.PathLike[str]

TOPOLOGIES = "*topologies*"
VISION = ("sam_model.*", "qwen2_model.*", "vision_model.*", "projector.*", "view_seperator", "image_newline")
SAM_RENAMED = {
    r"^blocks\.": "layers.",
    r"\.norm([12])\.": r".layer_norm\1.",
    r"^patch_embed\.proj\.": "patch_embed.projection.",
    r"^neck\.0\.": "neck.conv1.",
    r"^neck\.1\.": "neck.layer_norm1.",
    r"^neck\.2\.": "neck.conv2.",
    r"^neck\.3\.": "neck.layer_norm2.",
}


def load_causal_flow(encoder: CausalFlowEncoder, folder: Folder, *, fresh: Sequence[str] = (TOPOLOGIES,)) -> None:
    """Start the encoder from a Qwen2 language model, without its embedding and head, or from that of an OCR 2.

    Args:
        encoder: takes the weights; what its config.json says of heads and positions must be the encoder's.
        folder: with safetensors.
        fresh: patterns of the encoder's names that keep their values where the source has none.

    Raises:
        CheckpointError: a source that does not fit or cannot be read; the encoder is as before.
    """
    within = f"model.{LANGUAGE_MODEL}"
    prefix = _prefix(folder, "layers.0.input_layernorm.weight", (within, "model.", ""))
    path = ("vision_config", "encoder_config") if prefix == within else ()
    settings = _settings(folder, *path)
    settings.require_all(SWIGLU)
    _require_sublayers(settings, encoder.trunk.sublayers)
    ignore = [*_outside(folder, prefix), f"{prefix}embed_tokens.*", "lm_head.*", "*.rotary_emb.inv_freq"]
    load_weights(encoder, folder, fresh=fresh, ignore=ignore, prefix=prefix)


def load_sam(tokenizer: SAMTokenizer, folder: Folder, *, fresh: Sequence[str] = (TOPOLOGIES,)) -> None:
    """Start the tokenizer from a SAM that transformers wrote, or from the tokenizer of an OCR 1 or 2.

    SAM has no compressor: ours keeps its values.

    Args:
        tokenizer: takes the weights; what the source's config.json says of heads and windows must be the tokenizer's.
        folder: with safetensors; parts of the source other than the tokenizer are passed over.
        fresh: patterns of the tokenizer's names that keep their values where the source has none or one of another
            shape: "compressor.1.*" for OCR 1, whose last convolution gives 1024 channels.

    Raises:
        CheckpointError: a source that does not fit or cannot be read; the tokenizer is as before.
    """
    prefix = _prefix(folder, "pos_embed", ("model.sam_model.", "sam_model.", "vision_encoder."))
    names = released_names(tokenizer)
    path: tuple[str, ...] = ("vision_config", "sam_config")
    if prefix == "vision_encoder.":
        names = {_as_sam(name): slot for name, slot in names.items()}
        fresh = [*fresh, "compressor.*"]
        path = ("vision_config",) if "vision_config" in _settings(folder) else ()
    settings = _settings(folder, *path)
    settings.require_all(SAM)
    for attention in tokenizer.trunk.sublayers[::2]:
        settings.require("num_attention_heads", attention.heads)
        if attention.window:
            settings.require("window_size", attention.window)
    load_weights(tokenizer, folder, names, fresh=fresh, ignore=_outside(folder, prefix), prefix=prefix)


def load_decoder(decoder: CausalLanguageModel, folder: Folder, *, fresh: Sequence[str] = (TOPOLOGIES,)) -> None:
    """Start the decoder from a DeepSeek mixture of experts, or from that of an OCR 1 or 2.

    The source's experts may be a tensor each or stacked, its names with or without `model.` before them.

    Args:
        decoder: takes the weights; what the source's config.json says of heads, positions and routing must be its own.
        folder: with safetensors; the vision side of the source is passed over.
        fresh: patterns of the decoder's names that keep their values where the source has none: "head.*" too for a
            source without a head.

    Raises:
        CheckpointError: a source that does not fit or cannot be read; the decoder is as before.
    """
    prefix = _prefix(folder, "layers.0.input_layernorm.weight", ("model.", ""))
    settings = _settings(folder, *(key for key in ("text_config", "language_config") if key in _settings(folder)))
    settings.require_all(DEEPSEEK)
    _require_sublayers(settings, decoder.trunk.sublayers)
    names = released_names(decoder)
    with Checkpoint(folder) as checkpoint:
        if any(key.endswith("mlp.experts.gate_up_proj") for key in checkpoint):
            names = _stacked(names)
    names = {name if name.startswith("lm_head.") else prefix + name: slot for name, slot in names.items()}
    ignore = [*(prefix + part for part in VISION), "*.rotary_emb.inv_freq"]
    load_weights(decoder, folder, names, fresh=fresh, ignore=ignore)


def _require_sublayers(settings: Settings, sublayers: nn.ModuleList) -> None:
    for sublayer in sublayers:
        if isinstance(sublayer, Attention):
            settings.require("num_attention_heads", sublayer.heads)
            settings.require("num_key_value_heads", sublayer.key_value_heads)
            settings.require_plain_attention(sublayer.head_width)
            if (base := settings.rotary_base(sublayer.rotary_base)) != sublayer.rotary_base:
                raise CheckpointError(
                    f"the rotary base of the source is {base}, but ours is {sublayer.rotary_base}: set rotary_base"
                )
        elif isinstance(sublayer, MixtureOfExperts):
            settings.require("num_experts_per_tok", sublayer.chosen)


def _prefix(folder: Folder, key: str, prefixes: Sequence[str]) -> str:
    with Checkpoint(folder) as checkpoint:
        for prefix in prefixes:
            if prefix + key in checkpoint:
                return prefix
    known = " or ".join(prefix + key for prefix in prefixes)
    raise CheckpointError(f"the checkpoint {folder} has no {known}: it is of another model")


def _outside(folder: Folder, prefix: str) -> list[str]:
    with Checkpoint(folder) as checkpoint:
        return [key for key in checkpoint if not key.startswith(prefix)]


def _settings(folder: Folder, *path: str) -> Settings:
    file = Path(folder) / "config.json"
    settings = Settings(read_json(file) if file.exists() else {})
    for key in path:
        # older files do not say what their code knows
        settings = settings.section(key) if key in settings else Settings({})
    return settings


def _as_sam(name: str) -> str:
    for released, theirs in SAM_RENAMED.items():
        name = re.sub(released, theirs, name)
    return name


def _stacked(names: Names) -> Names:
    experts = {"gate_up": "mlp.experts.gate_up_proj", "down": "mlp.experts.down_proj"}
    stacked: Names = {}
    for name, slot in names.items():
        layer, found, _ = name.partition("mlp.experts.")
        if found:
            whole = Slot(slot.name)
            stacked[layer + experts[whole.name.rpartition(".")[2]]] = whole
        else:
            stacked[name] = slot
    return stacked
