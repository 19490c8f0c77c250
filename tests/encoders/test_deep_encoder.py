"""Packing: [crops, page, separator] of every image, whatever its neighbours have."""

from functools import partial

import pytest
import torch
from helpers import gradients, relative_error
from torch import nn

from encoders.causal_flow import CausalFlowEncoder
from encoders.deep_encoder import DeepEncoder, packing
from encoders.patch import PatchTokenizer
from encoders.query_bank import QueryBank
from encoders.raster import RasterEncoder
from encoders.views import ImageBatch
from mhc import ManifoldHyperConnection

PAGE, CROP = 32, 16


def build(topology=None, **counts) -> DeepEncoder:
    torch.manual_seed(0)
    encoder = CausalFlowEncoder(width=16, depth=1, heads=2, key_value_heads=1, hidden=16, topology=topology)
    queries = QueryBank(width=16, counts={PAGE: 5, CROP: 3}, stride=4)
    return DeepEncoder(PatchTokenizer(width=16, patch=4), encoder, 12, queries).double()


def batch(*counts: int) -> ImageBatch:
    generator = torch.Generator().manual_seed(4)

    def views(count, side):
        return torch.randn(count, 3, side, side, generator=generator, dtype=torch.float64)

    return ImageBatch(views(len(counts), PAGE), views(sum(counts), CROP) if sum(counts) else None, counts)


@pytest.mark.parametrize("counts", [(0,), (2,), (2, 0), (0, 3, 1), (0, 0)], ids=str)
def test_an_image_is_its_crops_its_page_and_the_separator(counts):
    encoder, images = build(), batch(*counts)
    packed = encoder(images)
    first_crop, parts = 0, []
    for image, count in enumerate(counts):
        for crop in range(first_crop, first_crop + count):
            parts.append(encoder.encode(images.crops[crop : crop + 1])[0])
        parts += [encoder.encode(images.pages[image : image + 1])[0], encoder.separator[None]]
        first_crop += count
    assert relative_error(packed, torch.cat(parts)) < 1e-12
    assert encoder.lengths(images) == [count * 3 + 5 + 1 for count in counts]
    assert sum(encoder.lengths(images)) == len(packed)


def test_an_image_does_not_depend_on_its_neighbours():
    encoder, images = build(partial(ManifoldHyperConnection, streams=2)), batch(1, 2)
    alone = ImageBatch(images.pages[1:], images.crops[1:], (2,))
    assert relative_error(encoder(images)[-12:], encoder(alone)) < 1e-12


def test_no_images_and_no_crops_run_every_part_for_gradients_of_zero():
    encoder = build(partial(ManifoldHyperConnection, streams=2))
    crops = torch.zeros(0, 3, CROP, CROP, dtype=torch.float64)
    none = ImageBatch(torch.zeros(0, 3, PAGE, PAGE, dtype=torch.float64), crops, ())
    packed = encoder(none)
    assert packed.shape == (0, 12)
    for gradient in gradients(packed, list(encoder.parameters())):
        assert gradient.abs().sum() == 0
    page = batch(0)
    packed = encoder(ImageBatch(page.pages, crops, (0,)))
    assert torch.equal(packed, encoder(page))
    for gradient in gradients(packed, list(encoder.parameters())):
        assert gradient.isfinite().all()


def test_streams_are_fp32_under_autocast():
    encoder = build().float()
    page, dtypes = batch(0).to(dtype=torch.float32), []
    expected = encoder(page)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder.encode(page.pages, lambda index, topology, state, carry: dtypes.append(state.dtype))
        assert relative_error(encoder(page), expected) < 0.02
    assert dtypes == [torch.float32] * 2


def test_gradients_reach_every_part_and_pixel():
    encoder, images = build(), batch(1, 0)
    inputs = [images.pages.requires_grad_(), images.crops.requires_grad_(), *encoder.parameters()]
    for gradient in gradients(encoder(images), inputs):
        assert gradient.abs().sum() > 0


def test_packing_is_a_permutation_but_for_the_separator():
    order = packing((2, 0, 1), page=3, crop=2).tolist()
    separator = 9
    assert [index for index in order if index != separator] == [10, 11, 12, 13, 0, 1, 2, 3, 4, 5, 14, 15, 6, 7, 8]
    assert [place for place, index in enumerate(order) if index == separator] == [7, 11, 17]


def test_without_queries_there_is_a_feature_for_every_visual_token():
    encoder = DeepEncoder(PatchTokenizer(width=16, patch=4), RasterEncoder(width=16), 12).double()
    images = batch(1)
    assert encoder.lengths(images) == [16 + 64 + 1]
    expected = encoder.projector(encoder.tokenizer(images.pages))[0]
    assert relative_error(encoder(images)[16:-1], expected) < 1e-12


def test_parts_of_different_widths_are_refused():
    tokenizer, raster = PatchTokenizer(width=16, patch=4), RasterEncoder(width=8)
    with pytest.raises(ValueError, match="visual tokens of width 16, but RasterEncoder reads 8"):
        DeepEncoder(tokenizer, raster, 12)
    encoder = CausalFlowEncoder(width=16, depth=1, heads=2, key_value_heads=1, hidden=16)
    with pytest.raises(ValueError, match="the query bank has width 8, but CausalFlowEncoder has 16"):
        DeepEncoder(tokenizer, encoder, 12, QueryBank(width=8, counts={PAGE: 5}, stride=4))


def test_it_runs_on_the_meta_device():
    images = batch(2, 0)
    with torch.device("meta"):
        encoder = build()
    packed = encoder(ImageBatch(images.pages.to("meta"), images.crops.to("meta"), images.crop_counts))
    assert packed.shape == (2 * 3 + 5 + 1 + 5 + 1, 12)
    assert isinstance(encoder.projector, nn.Linear)
