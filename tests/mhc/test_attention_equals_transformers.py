"""Attention and its rotation against transformers' Llama (plain) and Qwen3 (query-key norm), and as mathematics."""

import pytest
import torch
from helpers import assert_close, gradients, relative_error

from mhc import Attention, Context
from mhc.attention import rotate

B, S, HEADS, D = 2, 7, 6, 8
WIDTH = HEADS * D


@pytest.mark.parametrize("groups", [6, 3, 2, 1])
@pytest.mark.parametrize("normed", [False, True])
def test_attention_and_its_gradients_equal_transformers(normed, groups):
    if normed:
        modeling = pytest.importorskip("transformers.models.qwen3.modeling_qwen3")
        config_type, prefix = modeling.Qwen3Config, "Qwen3"
    else:
        modeling = pytest.importorskip("transformers.models.llama.modeling_llama")
        config_type, prefix = modeling.LlamaConfig, "Llama"
    config = config_type(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=groups,
        head_dim=D,
        num_hidden_layers=1,
        rms_norm_eps=1e-6,
    )
    config._attn_implementation = "eager"  # matrix products and a mask, not the kernel that ours calls
    oracle = getattr(modeling, f"{prefix}Attention")(config, 0).double()
    rotary = getattr(modeling, f"{prefix}RotaryEmbedding")(config)

    ours = Attention(WIDTH, heads=HEADS, key_value_heads=groups, query_key_norm=normed).double()
    with torch.no_grad():
        ours.norm.weight.normal_(1, 0.2)
        ours.query_key_value.weight.copy_(torch.cat([p.weight for p in (oracle.q_proj, oracle.k_proj, oracle.v_proj)]))
        ours.output.weight.copy_(oracle.o_proj.weight)
        if normed:
            for mine, theirs in ((ours.query_norm, oracle.q_norm), (ours.key_norm, oracle.k_norm)):
                theirs.weight.normal_(1, 0.2)
                mine.weight.copy_(theirs.weight)

    x = torch.randn(B, S, WIDTH, dtype=torch.float64, requires_grad=True)
    positions = rotary(x, torch.arange(S)[None])
    mask = torch.full((S, S), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    actual, expected = ours(x), oracle(ours.norm(x), positions, mask)[0]
    names = {"x": (x, x), "output": (ours.output.weight, oracle.o_proj.weight), "norm": (ours.norm.weight,) * 2}
    found = gradients(actual, [pair[0] for pair in names.values()])
    wanted = gradients(expected, [pair[1] for pair in names.values()])
    # the angles are fp32 in both
    assert_close(
        {"out": actual} | dict(zip(names, found, strict=True)),
        {"out": expected} | dict(zip(names, wanted, strict=True)),
        1e-6,
    )


def angles(length: int, base: float = 10000.0) -> torch.Tensor:
    frequencies = base ** (-2 * torch.arange(D // 2, dtype=torch.float64) / D)
    return torch.arange(length, dtype=torch.float64)[:, None] * frequencies


def test_rotation_is_a_complex_product():
    x = torch.randn(B, S, HEADS, D, dtype=torch.float64)
    cosine, sine = (f(angles(S)).repeat(1, 2) for f in (torch.cos, torch.sin))
    turned = (
        torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones(S, D // 2, dtype=torch.float64), angles(S))[:, None]
    )
    assert relative_error(rotate(x, cosine, sine), torch.cat([turned.real, turned.imag], -1)) < 1e-14


def test_scores_depend_on_distance_alone():
    query, key = torch.randn(2, 1, 1, 1, D, dtype=torch.float64).expand(2, 1, 40, 1, D)
    cosine, sine = (f(angles(40)).repeat(1, 2) for f in (torch.cos, torch.sin))
    scores = rotate(query, cosine, sine)[0, :, 0] @ rotate(key, cosine, sine)[0, :, 0].mT
    for distance in (-5, 0, 7):
        diagonal = scores.diagonal(distance)
        assert (diagonal - diagonal[0]).abs().max() < 1e-12
    assert (scores.diagonal(1)[0] - scores.diagonal(2)[0]).abs() > 1e-3


@pytest.mark.parametrize("base", [100.0, 10000.0])
def test_the_context_makes_the_angles(base):
    cosine, sine = Context(positions=torch.arange(S)).rotation(S, D, base, torch.device("cpu"))
    # fp32 angles of up to S radians
    assert relative_error(cosine, angles(S, base).cos().repeat(1, 2)) < 1e-6
    assert relative_error(sine, angles(S, base).sin().repeat(1, 2)) < 1e-6


def test_without_positions_the_order_of_earlier_tokens_is_invisible():
    attention = Attention(WIDTH, heads=HEADS, rotary_base=None).double()
    rotated = Attention(WIDTH, heads=HEADS).double()
    x = torch.randn(1, S, WIDTH, dtype=torch.float64)
    shuffled = x[:, [3, 0, 2, 1, 5, 4, 6]]
    assert relative_error(attention(shuffled)[:, -1], attention(x)[:, -1]) < 1e-12
    assert relative_error(rotated(shuffled)[:, -1], rotated(x)[:, -1]) > 1e-3


def test_without_causality_every_token_is_seen():
    attention = Attention(WIDTH, heads=HEADS, causal=False).double()
    x = torch.randn(1, S, WIDTH, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(attention(x)[:, 0].sum(), x)
    assert (gradient.abs().amax(-1) > 0).all()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"width": 10, "heads": 4}, "width must be divisible by heads"),
        ({"width": 12, "heads": 0}, "heads"),
        ({"width": 12, "heads": 4, "key_value_heads": 3}, "key_value_heads"),
        ({"width": 12, "heads": 4, "key_value_heads": 0}, "key_value_heads"),
        ({"width": 12, "heads": 4}, "even head width"),
    ],
)
def test_sizes_that_do_not_fit_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        Attention(**arguments)


def test_an_odd_head_is_fine_without_rotation():
    assert Attention(12, heads=4, rotary_base=None)(torch.randn(1, 2, 12)).shape == (1, 2, 12)
