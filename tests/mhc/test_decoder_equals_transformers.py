"""The DeepSeek decoder against transformers' DeepseekOcr2TextModel: logits, gradients, cache, padding, generation."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from helpers import FP32, assert_close, random_like, relative_error
from torch import Tensor, nn

from mhc import Attention, CausalLanguageModel, Context, KeyValueCache, Residual, SwiGLU
from mhc.decoding import NoRepeatNGram
from mhc.mixture_of_experts import MixtureOfExperts

modeling = pytest.importorskip("transformers.models.deepseek_ocr2.modeling_deepseek_ocr2")
from transformers import GenerationMixin  # noqa: E402
from transformers.modeling_outputs import CausalLMOutputWithPast  # noqa: E402
from transformers.models.deepseek_ocr2.configuration_deepseek_ocr2 import DeepseekOcr2TextConfig  # noqa: E402
from transformers.models.unlimited_ocr.generation_unlimited_ocr import (  # noqa: E402
    UnlimitedOcrSlidingWindowNoRepeatNgramLogitsProcessor,
)

V, C, DEPTH, HEADS, HIDDEN, EXPERT, EXPERTS, CHOSEN = 101, 32, 3, 4, 64, 16, 8, 3
LENGTHS = (9, 4, 6)


class Oracle(modeling.DeepseekOcr2TextPreTrainedModel, GenerationMixin):
    """transformers' text model with a head of its own."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.model = modeling.DeepseekOcr2TextModel(config)
        self.lm_head = nn.Linear(C, V, bias=False)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, **rest):
        out = self.model(input_ids, attention_mask=attention_mask, past_key_values=past_key_values, **rest)
        return CausalLMOutputWithPast(logits=self.lm_head(out.last_hidden_state), past_key_values=out.past_key_values)


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    config = DeepseekOcr2TextConfig(
        vocab_size=V,
        hidden_size=C,
        intermediate_size=HIDDEN,
        moe_intermediate_size=EXPERT,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        n_routed_experts=EXPERTS,
        n_shared_experts=2,
        num_experts_per_tok=CHOSEN,
        mlp_layer_types=["dense", "sparse", "sparse"],
        n_group=1,
        topk_group=1,
        topk_method="greedy",
        max_position_embeddings=256,
        pad_token_id=2,
    )
    config._attn_implementation, config._experts_implementation = "eager", "eager"
    model = Oracle(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + noise if "norm" in name else noise)
    return model


def renamed(get: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """The oracle's tensors under our names."""
    tensors = {name: get(theirs) for name, theirs in OUTSIDE.items()}
    for block in range(DEPTH):
        theirs, ours = f"model.layers.{block}", f"trunk.sublayers.{2 * block}"
        projections = [get(f"{theirs}.self_attn.{part}_proj.weight") for part in "qkv"]
        tensors |= {
            f"{ours}.norm.weight": get(f"{theirs}.input_layernorm.weight"),
            f"{ours}.query_key_value.weight": torch.cat(projections),
            f"{ours}.output.weight": get(f"{theirs}.self_attn.o_proj.weight"),
        }
        ours = f"trunk.sublayers.{2 * block + 1}"
        tensors[f"{ours}.norm.weight"] = get(f"{theirs}.post_attention_layernorm.weight")
        parts = DENSE if block == 0 else SPARSE
        tensors |= {f"{ours}.{name}": get(f"{theirs}.mlp.{part}") for name, part in parts.items()}
    return tensors


OUTSIDE = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}
OUTSIDE |= {"head.weight": "lm_head.weight"}
DENSE = {f"{part}.weight": f"{part}_proj.weight" for part in ("gate", "up", "down")}
SPARSE = {"router.weight": "gate.weight", "gate_up": "experts.gate_up_proj", "down": "experts.down_proj"}
SPARSE |= {f"shared_{name}": f"shared_experts.{part}" for name, part in DENSE.items()}


@pytest.fixture(scope="module")
def ours(oracle) -> CausalLanguageModel:
    model = CausalLanguageModel(
        V,
        C,
        DEPTH,
        topology=Residual,
        attention=partial(Attention, heads=HEADS),
        feed_forward=partial(MixtureOfExperts, experts=EXPERTS, chosen=CHOSEN, hidden=EXPERT, shared=2),
        dense_feed_forward=partial(SwiGLU, hidden=HIDDEN),
        dense_blocks=1,
        tied=False,
    )
    # strict: every parameter of both has its partner
    model.load_state_dict(renamed(dict(oracle.named_parameters()).__getitem__), strict=True)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in oracle.parameters())
    return model


def batch(padded: bool) -> tuple[Tensor, Tensor]:
    """Tokens [3, 9] and their mask; the rows of unequal lengths where padded."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, V, (len(LENGTHS), max(LENGTHS)), generator=generator)
    lengths = torch.tensor(LENGTHS if padded else [max(LENGTHS)] * len(LENGTHS))
    mask = torch.arange(max(LENGTHS)) >= max(LENGTHS) - lengths[:, None]
    return tokens.masked_fill(~mask, 2), mask


def context_of(mask: Tensor, start: int = 0, cache: KeyValueCache | None = None) -> Context:
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return Context(mask=mask, positions=positions[:, start:], cache=cache)


@pytest.mark.parametrize("padded", [False, True])
def test_logits_and_all_gradients(oracle, ours, padded):
    tokens, mask = batch(padded)
    logits = {
        "actual": ours(tokens, context_of(mask) if padded else None),
        "expected": oracle(tokens, attention_mask=mask.long()).logits,
    }
    assert relative_error(logits["actual"][mask], logits["expected"][mask]) < FP32
    upstream = random_like(logits["actual"]) * mask[..., None]
    actual = dict(ours.named_parameters())
    found = torch.autograd.grad(logits["actual"], list(actual.values()), upstream)
    expected = dict(oracle.named_parameters())
    wanted = torch.autograd.grad(logits["expected"], list(expected.values()), upstream)
    wanted = renamed(dict(zip(expected, wanted, strict=True)).__getitem__)
    assert_close(dict(zip(actual, found, strict=True)), {name: wanted[name] for name in actual}, FP32)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("split", [[9], [1] * 9, [7, 1, 1], [4, 3, 2]], ids=str)
@torch.no_grad()
def test_the_cache_in_any_split(oracle, ours, split, padded):
    tokens, mask = batch(padded)
    cache, parts, start = KeyValueCache(), [], 0
    for part in tokens.split(split, 1):
        end = start + part.shape[1]
        parts.append(ours(part, context_of(mask[:, :end], start, cache)))
        start = end
    expected = oracle(tokens, attention_mask=mask.long(), use_cache=False).logits
    assert relative_error(torch.cat(parts, 1)[mask], expected[mask]) < FP32


@torch.no_grad()
def test_embeddings(oracle, ours):
    embeddings = torch.randn(2, 7, C)
    expected = oracle.lm_head(oracle.model(inputs_embeds=embeddings).last_hidden_state)
    assert relative_error(ours(embeddings=embeddings), expected) < FP32


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_greedy_tokens_are_those_of_whole_forward_passes(oracle, ours, padded):
    tokens, mask = batch(padded)
    expected, real = tokens, mask.long()
    for _ in range(16):
        following = oracle(expected, attention_mask=real, use_cache=False).logits[:, -1:].argmax(-1)
        expected, real = torch.cat([expected, following], 1), torch.cat([real, torch.ones_like(real[:, :1])], 1)
    assert torch.equal(ours.generate(tokens, 16, mask=mask, temperature=0), expected)
    embedded = oracle.model.embed_tokens(tokens)
    assert torch.equal(ours.generate(tokens, 16, embeddings=embedded, mask=mask, temperature=0), expected)


@pytest.mark.parametrize("padded", [False, True])
def test_greedy_tokens_and_their_end_are_those_of_transformers(oracle, ours, padded):
    tokens, mask = batch(padded)
    free = oracle.generate(tokens, attention_mask=mask.long(), max_new_tokens=24, do_sample=False)
    end = int(free[1, max(LENGTHS) + 5])
    for chosen in (slice(None), slice(0, 1), slice(1, 2), slice(2, 3)):
        arguments = {"attention_mask": mask[chosen].long(), "do_sample": False, "pad_token_id": 2}
        expected = oracle.generate(tokens[chosen], max_new_tokens=24, eos_token_id=end, **arguments)
        actual = ours.generate(tokens[chosen], 24, mask=mask[chosen], end_token=end, padding_token=2, temperature=0)
        assert torch.equal(actual, expected)
    assert (free[1] == end).any()


@pytest.mark.parametrize(("size", "window"), [(1, 9), (2, 12), (3, 40)])
def test_greedy_without_repeated_ngrams_is_that_of_transformers(oracle, ours, size, window):
    tokens, mask = batch(padded=False)
    processor = UnlimitedOcrSlidingWindowNoRepeatNgramLogitsProcessor(size, window)
    arguments = {"attention_mask": mask.long(), "max_new_tokens": 40, "do_sample": False}
    expected = oracle.generate(tokens, logits_processor=[processor], **arguments)
    assert not torch.equal(expected, oracle.generate(tokens, **arguments))
    assert torch.equal(ours.generate(tokens, 40, temperature=0, processors=[NoRepeatNGram(size, window)]), expected)
