"""Views against transformers' image processor, and what they refuse."""

import random

import numpy as np
import pytest
import torch
from helpers import relative_error
from PIL import Image

from encoders.views import ImageBatch, Views

oracle = pytest.importorskip("transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2")


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Coarse noise under fine noise, so that neither a wrong filter nor a wrong place goes unseen."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 200, (max(1, height // 9), max(1, width // 9), 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))
    return Image.fromarray(large + generator.integers(0, 56, (height, width, 3), dtype=np.uint8))


def expected_grid(width: int, height: int, crop: int, fewest: int, most: int) -> tuple[int, int]:
    if max(width, height) <= crop:
        return 0, 0
    return oracle.get_optimal_tiled_canvas((height, width), (crop, crop), fewest, most)


@pytest.mark.parametrize(("crop", "fewest", "most"), [(768, 2, 6), (640, 2, 9), (96, 1, 12), (64, 3, 3)])
def test_grids_of_2000_sizes_equal_transformers(crop, fewest, most):
    views, generator = Views(crop_size=crop, min_crops=fewest, max_crops=most), random.Random(1)
    sizes = [(generator.randint(1, 4 * crop), generator.randint(1, 4 * crop)) for _ in range(1800)]
    # ties: exact aspect ratios, squares, and sizes at the bounds
    sizes += [(side, side) for side in generator.sample(range(1, 4 * crop), 60)]
    sizes += [(k * a, k * b) for a in range(1, 8) for b in range(1, 8) for k in (crop // 4, crop // 2)]
    sizes += [(crop + a, crop + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    sizes += [(1, crop + b) for b in (-1, 0, 1)] + [(10**6, 1), (1, 10**6)]
    assert len(sizes) >= 1900
    found = [views.grid(*size) for size in sizes]
    assert found == [expected_grid(*size, crop, fewest, most) for size in sizes]
    assert len(set(found)) > (2 if fewest < most else 1)


def test_the_papers_grids():
    views = Views()
    assert views.grid(768, 768) == (0, 0)
    assert views.grid(1190, 1684) == (2, 3)  # portrait A4 at 144 dpi
    assert views.grid(1684, 1190) == (3, 2)
    counts = {columns * rows for columns, rows in (views.grid(w, 900) for w in range(100, 6000, 7))}
    assert counts == {2, 3, 4, 5, 6}
    assert Views(max_crops=0).grid(5000, 5000) == (0, 0)


SIZES = [
    (40, 60), (64, 64), (65, 64), (64, 65), (63, 200), (200, 63), (128, 128), (129, 127), (300, 200), (200, 300),
    (1, 1), (7, 3), (1, 65), (65, 1), (333, 77), (77, 333), (500, 500), (90, 91), (91, 90), (127, 64),
    (3, 64), (255, 256), (400, 100), (100, 400), (66, 66), (150, 210),
]  # fmt: skip


def assert_equal_to_transformers(views: Views, image: Image.Image) -> None:
    processor = oracle.DeepseekOcr2ImageProcessorPil(
        image_mean=[views.mean] * 3,
        image_std=[views.std] * 3,
        size={"height": views.global_size, "width": views.global_size},
        tile_size=views.crop_size,
        min_patches=views.min_crops,
        max_patches=views.max_crops,
        background_color=[views.fill] * 3,
    )
    expected = processor(images=[image], return_tensors="pt")
    page, crops = views(image)
    assert len(crops) == int(expected["num_local_patches"][0])
    assert (page - expected["pixel_values"][0]).abs().max() <= 1e-6
    if len(crops):
        assert crops.shape == expected["pixel_values_local"].shape
        assert (crops - expected["pixel_values_local"]).abs().max() <= 1e-6


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_equal_transformers(size):
    assert_equal_to_transformers(Views(global_size=128, crop_size=64), noise(*size))


@pytest.mark.parametrize("size", [(700, 500), (1190, 1684), (2000, 780), (769, 768)], ids=str)
def test_pixels_of_full_size_equal_transformers(size):
    assert_equal_to_transformers(Views(), noise(*size))


def test_other_greys_means_and_bounds_equal_transformers():
    views = Views(global_size=96, crop_size=32, min_crops=3, max_crops=12, fill=10, mean=0.4, std=0.3)
    assert_equal_to_transformers(views, noise(90, 180))


def test_crops_are_row_by_row():
    views = Views(global_size=64, crop_size=16)
    image = Image.new("RGB", (48, 32))
    for number in range(6):
        image.paste((40 * number,) * 3, (16 * (number % 3), 16 * (number // 3), 16 * (number % 3 + 1), 32))
    # six flat squares, none resized
    _, crops = views(image)
    values = ((crops.mean((1, 2, 3)) * 0.5 + 0.5) * 255).round().tolist()
    assert values == [0, 40, 80, 120, 160, 200]


def test_a_page_keeps_a_line_that_would_round_to_nothing():
    page, crops = Views(global_size=32, crop_size=16)(Image.new("RGB", (1, 5000), "white"))
    assert page.shape == (3, 32, 32)
    assert int((page == 1).sum()) == 3 * 32
    assert len(crops) == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"global_size": 0}, "global_size"),
        ({"crop_size": -1}, "crop_size"),
        ({"min_crops": 0}, "min_crops"),
        ({"min_crops": 7}, "max_crops"),
        ({"max_crops": -1}, "max_crops"),
        ({"fill": 256}, "fill"),
        ({"std": 0.0}, "std"),
        ({"std": float("nan")}, "std"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        Views(**arguments)


def test_bad_images_are_named():
    with pytest.raises(ValueError, match="0 x 5"):
        Views().grid(0, 5)
    with pytest.raises(ValueError, match="0 x 5"):
        Views()(Image.new("RGB", (0, 5)))
    with pytest.raises(ValueError, match="mode L"):
        Views()(Image.new("L", (5, 5)))


def test_images_with_different_crop_counts_are_one_batch():
    views = Views(global_size=32, crop_size=16)
    images = [noise(10, 10), noise(20, 40), noise(64, 64), noise(9, 30)]
    parts = [views(image) for image in images]
    batch = ImageBatch.collate(parts)
    assert batch.crop_counts == tuple(len(crops) for _, crops in parts)
    assert batch.crop_counts[0] == 0
    assert len(set(batch.crop_counts)) > 2
    assert batch.pages.shape == (4, 3, 32, 32)
    for (page, crops), mine, cut in zip(parts, batch.pages, batch.crops.split(batch.crop_counts), strict=True):
        assert torch.equal(mine, page)
        assert torch.equal(cut, crops)
    half = batch.to(dtype=torch.bfloat16)
    assert half.pages.dtype == half.crops.dtype == torch.bfloat16
    assert half.crop_counts == batch.crop_counts
    assert relative_error(half.pages, batch.pages) < 1e-2
    assert batch.to("meta").crops.is_meta


def test_a_batch_without_crops_has_none():
    views = Views(global_size=32, crop_size=16)
    batch = ImageBatch.collate([views(noise(8, 8)), views(noise(16, 16))])
    assert batch.crops is None
    assert batch.crop_counts == (0, 0)
    assert len(batch.to(dtype=torch.float64)) == 2


def test_batches_that_do_not_fit_are_named():
    pages, crops = torch.zeros(2, 3, 8, 8), torch.zeros(3, 3, 4, 4)
    with pytest.raises(ValueError, match=r"add up to 2.*3 crops"):
        ImageBatch(pages, crops, (2, 0))
    with pytest.raises(ValueError, match=r"1 entries for 2 pages"):
        ImageBatch(pages, crops, (3,))
    with pytest.raises(ValueError, match="negative"):
        ImageBatch(pages, crops, (4, -1))
    with pytest.raises(ValueError, match=r"pages must be \[number, 3"):
        ImageBatch(pages[0], None, (0,))
    with pytest.raises(ValueError, match="0 crops"):
        ImageBatch(pages, None, (1, 0))
    with pytest.raises(ValueError, match="at least one"):
        ImageBatch.collate([])
    with pytest.raises(ValueError, match="pages of a batch must have one size"):
        ImageBatch.collate([Views(64, 16)(noise(8, 8)), Views(32, 16)(noise(8, 8))])
    with pytest.raises(ValueError, match="crops of a batch must have one size"):
        ImageBatch.collate([Views(64, 16)(noise(8, 8)), Views(64, 32)(noise(8, 8))])
