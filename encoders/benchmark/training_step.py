"""A tiny whole model's training step against transformers' on the same weights and the same two pages."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.benchmark.rounds import PLACE, CannotMeasure, Settings, Spread, alternate, ratio, spread
from encoders.released import load_ocr2
from encoders.views import ImageBatch

FILE = "bench/ocr2_training_step_{device}.csv"
COLUMNS = (
    "code", "pages", "crops", "sequence", "parameters", "dtype", "optimizer", "loss", "step_ms", "step_ms_p10",
    "step_ms_p90", "rounds", "transformers_over_this", "transformers_over_this_p10", "transformers_over_this_p90",
    *PLACE,
)  # fmt: skip
IMAGE, VOCABULARY, SEQUENCE = 7, 101, 576
CROPS = (2, 0)
SLOTS = tuple(count * 144 + 257 for count in CROPS)
# losses of the two before any step; what is between them is the order of sums in fp32
AGREEMENT = 1e-4
GOAL = 1.0


def rows(settings: Settings) -> Iterator[dict[str, Any]]:
    """A row for ours and one for transformers: forward, backward and AdamW in fp32.

    Raises:
        CannotMeasure: transformers is missing, or the two losses are not the same.
    """
    theirs: Any = _peer().to(settings.device).train()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load_ocr2(folder).to(settings.device).train()
    tokens, labels, pages, crops = (tensor.to(settings.device) for tensor in _batch())
    images = ImageBatch(pages, crops, CROPS)

    def our_loss() -> Tensor:
        logits = ours(tokens, images)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())

    def their_loss() -> Tensor:
        return theirs(
            input_ids=tokens,
            pixel_values=pages,
            pixel_values_local=crops,
            num_local_patches=list(CROPS),
            labels=labels,
            use_cache=False,
        ).loss

    losses = {"ours": our_loss, "transformers": their_loss}
    with torch.no_grad():
        first = {name: float(loss()) for name, loss in losses.items()}
    if not abs(first["ours"] / first["transformers"] - 1) < AGREEMENT:
        raise CannotMeasure(f"the two models do not compute the same and cannot be compared: their losses are {first}")
    models: dict[str, nn.Module] = {"ours": ours, "transformers": theirs}
    runs = {name: _Step(models[name], loss) for name, loss in losses.items()}
    times = alternate(runs, settings)
    for name, found in times.items():
        row = {"code": name, "pages": len(CROPS), "crops": sum(CROPS), "sequence": SEQUENCE, "dtype": "fp32"}
        row |= {"parameters": sum(parameter.numel() for parameter in models[name].parameters()), "optimizer": "AdamW"}
        row |= {"loss": first[name], "rounds": len(found)} | spread(found).columns("step_ms")
        yield row | ratio(times, "transformers", name).columns("transformers_over_this")


def line(row: Mapping[str, Any]) -> str:
    """One row, for the terminal."""
    return f"tiny whole model, {row['code']}: {row['step_ms']:.0f} ms a step"


def goals(found: Sequence[Mapping[str, Any]], device: str) -> str:
    """Whether the step is at least as fast as transformers'."""
    least = next(Spread.read(row, "transformers_over_this") for row in found if row["code"] == "ours")
    state = "reached" if round(least.median, 2) >= GOAL else "not reached"
    return (
        f"  {state:12}  the tiny whole model's training step at least as fast as transformers': {least} times as fast"
    )


class _Step:
    def __init__(self, model: nn.Module, loss: Any) -> None:
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        self.loss = loss

    def __call__(self) -> None:
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def _batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens and labels [2, S], pages [2, 3, 1024, 1024], crops [2, 3, 768, 768]."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(IMAGE + 1, VOCABULARY, (len(CROPS), SEQUENCE), generator=generator)
    for row, slots in enumerate(SLOTS):
        tokens[row, 1 : 1 + slots] = IMAGE
    labels = tokens.masked_fill(tokens == IMAGE, -100)
    pages = torch.randn(len(CROPS), 3, 1024, 1024, generator=generator)
    return tokens, labels, pages, torch.randn(sum(CROPS), 3, 768, 768, generator=generator)


def _peer() -> nn.Module:
    try:
        from transformers.models.deepseek_ocr2 import configuration_deepseek_ocr2 as configuration
        from transformers.models.deepseek_ocr2 import modeling_deepseek_ocr2 as modeling
    except ImportError as error:
        raise CannotMeasure(
            f"the training step is measured against transformers, which cannot be imported ({error}): install the test "
            "extra"
        ) from None
    tokenizer = {
        "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 1024, "patch_size": 16, "window_size": 7, "global_attn_indexes": [1], "mlp_ratio": 2.0,
        "downsample_channels": [24, 32],
    }  # fmt: skip
    encoder = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }  # fmt: skip
    text = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 16,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "n_routed_experts": 8,
        "n_shared_experts": 2, "num_experts_per_tok": 3, "mlp_layer_types": ["dense", "sparse", "sparse"], "n_group": 1,
        "topk_group": 1, "topk_method": "greedy", "max_position_embeddings": 1024,
    }  # fmt: skip
    config = configuration.DeepseekOcr2Config(
        vision_config={"sam_config": tokenizer, "encoder_config": encoder}, text_config=text, image_token_id=IMAGE
    )
    torch.manual_seed(0)
    model = modeling.DeepseekOcr2ForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():  # some start at zero, and everything would agree there
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model
