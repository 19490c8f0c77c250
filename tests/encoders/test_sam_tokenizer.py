"""SAM's transformer and compressor against transformers', with every topology, and its sizes."""

import re
from functools import partial

import pytest
import torch
from helpers import FP32, FP64, assert_close, gradients, random_like, randomise, relative_error

from encoders.sam import SAMTokenizer
from mhc import HyperConnection, ManifoldHyperConnection, build, describe

SIZES = {"width": 32, "depth": 2, "heads": 2, "hidden": 64, "window": 7, "global_blocks": (1,), "image_size": 256}
SIZES |= {"neck": 16, "compressor": (24, 48)}

# ours -> transformers', in order
NAMES = {
    r"patch\.": "patch_embed.projection.",
    r"^positions": "pos_embed",
    r"\.norm\.": ".layer_norm{half}.",
    r"\.query_key_value\.": ".attn.qkv.",
    r"\.output\.": ".attn.proj.",
    r"\.relative_rows": ".attn.rel_pos_h",
    r"\.relative_columns": ".attn.rel_pos_w",
    r"\.up\.": ".mlp.lin1.",
    r"\.down\.": ".mlp.lin2.",
    r"neck\.0": "neck.conv1",
    r"neck\.1": "neck.layer_norm1",
    r"neck\.2": "neck.conv2",
    r"neck\.3": "neck.layer_norm2",
    r"compressor\.0": "proj.conv1",
    r"compressor\.1": "proj.conv2",
}


def theirs(name):
    for ours, other in NAMES.items():
        name = re.sub(ours, other, name)
    sublayer = re.match(r"trunk\.sublayers\.(\d+)", name)
    if sublayer is None:
        return name
    index = int(sublayer[1])
    return name.replace(sublayer[0], f"layers.{index // 2}").format(half=index % 2 + 1)


def pair(dtype=torch.float64):
    modeling = pytest.importorskip("transformers.models.deepseek_ocr2.modeling_deepseek_ocr2")
    from transformers.models.deepseek_ocr2.configuration_deepseek_ocr2 import DeepseekOcr2SamVisionConfig

    config = DeepseekOcr2SamVisionConfig(
        hidden_size=32,
        output_channels=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=256,
        patch_size=16,
        window_size=7,
        global_attn_indexes=[1],
        mlp_ratio=2.0,
        downsample_channels=[24, 48],
    )
    oracle = randomise(modeling.DeepseekOcr2SamVisionEncoder(config).eval(), 0.2).to(dtype)
    tokenizer = SAMTokenizer(**SIZES).to(dtype)
    state = oracle.state_dict()
    tokenizer.load_state_dict({name: state.pop(theirs(name)) for name in tokenizer.state_dict()})
    assert not state
    return tokenizer, oracle


@pytest.mark.parametrize(
    ("size", "dtype", "tolerance"),
    [
        ((256, 256), torch.float64, FP64),
        ((256, 256), torch.float32, FP32),
        # transformers interpolates positions in fp32
        ((384, 384), torch.float64, 1e-6),
        ((128, 320), torch.float64, 1e-6),
        ((64, 64), torch.float64, 1e-6),
    ],
)
def test_outputs_and_all_gradients_equal_transformers(size, dtype, tolerance):
    tokenizer, oracle = pair(dtype)
    pixels = torch.randn(2, 3, *size, dtype=dtype)
    results = []
    for module, rename in ((tokenizer, theirs), (oracle, str)):
        x = pixels.clone().requires_grad_()
        y = module(x) if module is tokenizer else module(pixel_values=x).last_hidden_state.flatten(2).mT
        named = {"pixels": x} | {rename(name): parameter for name, parameter in module.named_parameters()}
        results.append({"out": y} | dict(zip(named, gradients(y, list(named.values())), strict=True)))
    assert results[0]["out"].shape == (2, size[0] * size[1] // 64**2, 48)
    assert_close({name: results[0][name] for name in results[1]}, results[1], tolerance)


def tiny(**arguments):
    return SAMTokenizer(**{**SIZES, "width": 16, "hidden": 32, "image_size": 128, "window": 3, **arguments})


def test_the_full_model_has_as_many_parameters_as_the_released_one():
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in SAMTokenizer().parameters()) == 94_979_328
        without = SAMTokenizer(compressor=())
        assert sum(parameter.numel() for parameter in without.parameters()) == 89_670_912
        assert (without.width, without.stride) == (256, 16)
        assert SAMTokenizer()(torch.empty(1, 3, 768, 1024)).shape == (1, 192, 896)


def test_without_a_compressor_the_neck_comes_out():
    full, bare = tiny(), tiny(compressor=())
    bare.load_state_dict({name: value for name, value in full.state_dict().items() if "compressor" not in name})
    pixels = torch.randn(1, 3, 64, 128)
    features = bare(pixels).mT.unflatten(2, (4, 8))
    assert relative_error(full.compressor(features).flatten(2).mT, full(pixels)) < FP32


def test_tokens_are_in_raster_order():
    # random blocks of full attention mix all tokens, so only local maps are left on
    tokenizer = tiny(depth=1, global_blocks=(), window=1)
    with torch.no_grad():
        for index in (0, 2):
            tokenizer.neck[index].weight.copy_(torch.randn_like(tokenizer.neck[index].weight))
        changed = torch.zeros(1, 3, 192, 256)
        changed[:, :, 80:112, 144:176] = 1  # the middle of row 1, column 2 of 3 x 4 tokens
        difference = (tokenizer(changed) - tokenizer(torch.zeros(1, 3, 192, 256))).norm(dim=-1)[0]
    assert difference.argmax() == 1 * 4 + 2


@pytest.mark.parametrize("size", [(96, 128), (128, 100), (0, 64), (32, 32)])
def test_sizes_that_the_stride_does_not_divide_are_named(size):
    with pytest.raises(ValueError, match=rf"stride 64, got {size[0]} x {size[1]}"):
        tiny()(torch.zeros(1, 3, *size))


def test_other_pixels_than_three_channels_are_an_error():
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        tiny()(torch.zeros(1, 1, 64, 64))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"width": 0}, "width"),
        ({"width": 15}, "heads"),
        ({"depth": 0}, "depth"),
        ({"window": 0}, "window"),
        ({"compressor": (8, 0)}, "compressor"),
        ({"image_size": 100}, "image_size"),
        ({"global_blocks": (2,)}, "global_blocks"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        tiny(**arguments)


@pytest.mark.parametrize("topology", [partial(HyperConnection, streams=2), partial(ManifoldHyperConnection, streams=4)])
def test_topologies_train(topology):
    tokenizer = tiny(topology=topology)
    pixels = torch.randn(2, 3, 128, 64)
    target = torch.randn(2, 2, 48)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), 1e-2)
    before = {name: parameter.clone() for name, parameter in tokenizer.named_parameters()}
    losses = []
    for _ in range(6):
        loss = (tokenizer(pixels) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(not torch.equal(before[name], parameter) for name, parameter in tokenizer.named_parameters())


def test_mhc_starts_as_the_plain_residual():
    plain = randomise(tiny().double(), 0.2)
    mixed = tiny(topology=partial(ManifoldHyperConnection, streams=4, init="residual")).double()
    mixed.load_state_dict(plain.state_dict(), strict=False)
    pixels = torch.randn(2, 3, 128, 192, dtype=torch.float64)
    assert relative_error(mixed(pixels), plain(pixels)) < FP64


def test_the_observer_sees_every_sublayer():
    seen = []
    tiny()(torch.zeros(1, 3, 64, 64), observe=lambda index, *_: seen.append(index))
    assert seen == [0, 1, 2, 3]


def test_bf16_stays_close_to_fp32():
    tokenizer = randomise(tiny(), 0.1)
    pixels = torch.randn(2, 3, 128, 192)
    expected = tokenizer(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        assert relative_error(tokenizer(pixels), expected) < 0.05
    low = tokenizer.bfloat16()
    actual = low(pixels.bfloat16())
    assert actual.dtype == torch.bfloat16
    assert relative_error(actual, expected) < 0.05
    actual.backward(random_like(actual))
    assert all(parameter.grad.isfinite().all() for parameter in low.parameters())


def test_it_starts_as_its_table_says():
    tokenizer = SAMTokenizer(**{**SIZES, "width": 64})
    assert tokenizer.positions.std().item() == pytest.approx(0.02, rel=0.1)
    attention = tokenizer.trunk.sublayers[0]
    assert attention.query_key_value.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not any(p.any() for p in (attention.relative_rows, attention.relative_columns, attention.output.bias))


def test_it_is_built_again_from_its_description():
    node = describe(tiny(topology=partial(ManifoldHyperConnection, streams=2)))
    again = build(node)
    assert describe(again) == node
    assert again.stride == 64
    assert again.width == 48
    assert isinstance(again.trunk.topologies[0], ManifoldHyperConnection)


def test_no_images_give_no_tokens():
    assert tiny()(torch.zeros(0, 3, 128, 64)).shape == (0, 2, 48)


def test_it_compiles_without_a_break():
    tokenizer, pixels = randomise(tiny(), 0.2), torch.randn(1, 3, 128, 64)
    compiled = torch.compile(tokenizer, backend="aot_eager", fullgraph=True)
    results = []
    for module in (compiled, tokenizer):
        y = module(pixels)
        results.append([y, *gradients(y, list(tokenizer.parameters()))])
    for actual, expected in zip(*results, strict=True):
        assert relative_error(actual, expected) < FP32


def test_recompute_changes_no_gradient():
    topology = partial(ManifoldHyperConnection, streams=2)
    plain = randomise(SAMTokenizer(**SIZES, topology=topology), 0.2).double()
    again = SAMTokenizer(**SIZES, topology=topology, recompute="auto").double()
    again.load_state_dict(plain.state_dict())
    pixels = torch.randn(1, 3, 128, 192, dtype=torch.float64)
    expected, found = (gradients(tokenizer(pixels), list(tokenizer.parameters())) for tokenizer in (plain, again))
    for theirs, ours in zip(expected, found, strict=True):
        assert relative_error(ours, theirs) < FP64
