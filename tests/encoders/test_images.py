"""Images of every kind come out as RGB, or as one sentence that names the file."""

import io
import random
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from encoders.images import ImageError, open_image, page_count


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def ramp(width: int = 32, height: int = 24) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([rows * 9, columns * 7, rows + columns], -1).astype(np.uint8))


def pixels(data: bytes) -> np.ndarray:
    image = open_image(data)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000", "AVIF"])
def test_formats(kind):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    original = ramp()
    found = pixels(encoded(original, kind))
    assert found.shape == (24, 32, 3)
    assert abs(found - np.asarray(original)).mean() < 12


def test_a_path_and_its_bytes_are_the_same(tmp_path):
    data = encoded(ramp())
    (tmp_path / "page.png").write_bytes(data)
    assert open_image(tmp_path / "page.png").tobytes() == open_image(str(tmp_path / "page.png")).tobytes()
    assert open_image(tmp_path / "page.png").tobytes() == open_image(data).tobytes() == ramp().tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    values = np.linspace(0, 65535, 24 * 32).round().astype(np.uint16).reshape(24, 32)
    found = pixels(encoded(Image.fromarray(values), kind))
    assert abs(found[..., 0] - values / 257).max() <= 0.5
    assert (found == found[..., :1]).all()


def test_sixteen_bit_negatives_are_turned():
    values = np.linspace(0, 65535, 24 * 32).round().astype(np.uint16).reshape(24, 32)
    data = encoded(Image.fromarray(values), "TIFF")
    # PhotometricInterpretation: 0 is white
    entry = struct.pack("<HHI", 262, 3, 1)
    assert data.count(entry) == 1
    at = data.index(entry) + len(entry)
    found = pixels(data[:at] + struct.pack("<I", 0) + data[at + 4 :])
    assert abs(found[..., 0] - (255 - values / 257)).max() <= 0.5


def test_cmyk():
    found = pixels(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert abs(found - [255, 0, 0]).max() < 8


def test_bilevel_and_grey():
    assert (pixels(encoded(Image.new("1", (4, 4), 1))) == 255).all()
    assert (pixels(encoded(Image.new("L", (4, 4), 77))) == 77).all()


def transparent_images() -> dict[str, bytes]:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    palette = Image.new("P", (4, 4), 3)
    palette.putpalette([0, 0, 0] * 8)
    return {
        "RGBA": encoded(clear),
        "LA": encoded(Image.new("LA", (4, 4), (0, 0))),
        "palette": encoded(palette, transparency=3),
        "palette with steps": encoded(palette, transparency=bytes([255, 255, 255, 0])),
        "RGB with a key": encoded(Image.new("RGB", (4, 4)), transparency=(0, 0, 0)),
        "grey with a key": encoded(Image.new("L", (4, 4)), transparency=0),
        "16 bits with a key": encoded(Image.fromarray(np.zeros((4, 4), np.uint16)), transparency=0),
        "GIF": encoded(palette, "GIF", transparency=3),
        "WEBP": encoded(clear, "WEBP", lossless=True),
    }


@pytest.mark.parametrize("kind", transparent_images())
def test_what_is_transparent_is_white(kind):
    assert (pixels(transparent_images()[kind]) == 255).all()


def test_half_transparent_ink_is_grey():
    assert abs(pixels(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))) - 127).max() <= 1


def test_an_opaque_palette_keeps_its_colours():
    original = ramp().quantize(16)
    assert (pixels(encoded(original)) == np.asarray(original.convert("RGB"))).all()


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_the_first_frame_of_several(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    found = pixels(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert abs(found - [255, 0, 0]).max() < 4


def test_pages_of_a_tiff():
    frames = [Image.new("RGB", (16, 16 + k), colour) for k, colour in enumerate(("red", "blue", "lime"))]
    data = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    assert page_count(data) == 3
    assert [open_image(data, page=k).tobytes() for k in range(3)] == [frame.tobytes() for frame in frames]
    with refused("scan: ", "no page 3", "0 to 2"):
        open_image(data, name="scan", page=3)
    assert page_count(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == 1
    with refused("no.tif", "No such file"):
        page_count("no.tif")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "undone"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_exif_orientation_is_applied(kind, orientation, undone):
    exif = Image.Exif()
    exif[0x0112] = orientation
    original = ramp(64, 40).resize((64, 40))
    expected = undone(np.asarray(original)).astype(int)
    found = pixels(encoded(original, kind, exif=exif))
    assert found.shape == expected.shape
    assert abs(found - expected).mean() < 12


def refused(*words: str):
    return pytest.raises(ImageError, match=".*".join(map(re.escape, words)))


def test_corrupt_files_are_named_with_a_reason(tmp_path):
    good = {kind: encoded(ramp(200, 200), kind) for kind in ("PNG", "JPEG", "TIFF", "WEBP", "BMP")}
    cases = {
        "empty.png": (b"", "0 bytes"),
        "text.png": (b"this is no image at all, but somebody called it one", "is no image"),
        "header.jpg": (good["JPEG"][:10], ""),
        "page.pdf": (b"%PDF-1.7\n", "is no image"),
        "page.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", "is no image"),
    } | {f"half.{kind}": (data[: len(data) // 2], "") for kind, data in good.items()}
    for name, (data, words) in cases.items():
        (tmp_path / name).write_bytes(data)
        with refused(name, words) as caught:
            open_image(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, ValueError)
    with refused("upload 7: ", "is no image"):
        open_image(b"nothing", name="upload 7")


def test_what_is_no_file_is_refused(tmp_path):
    with refused(str(tmp_path), "is a folder"):
        open_image(tmp_path)
    with refused("missing.png", "No such file"):
        open_image(tmp_path / "missing.png")
    with refused("/dev/null", "no ordinary file"):
        open_image("/dev/null")


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is large and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_decompression_bombs_and_empty_images():
    with refused("bomb.png", "more than 178,956,970 pixels", "decompression bombs", "make it smaller"):
        open_image(bomb(60000, 60000), name="bomb.png")
    with refused("page.png", "200 x 30 pixels", "pixel_limit=5,999"):
        open_image(encoded(Image.new("L", (200, 30))), name="page.png", pixel_limit=5_999)
    assert open_image(encoded(Image.new("L", (200, 30))), pixel_limit=6_000).size == (200, 30)
    with refused("zero.png"):
        open_image(bomb(0, 10), name="zero.png")
    with refused("zero.pgm"):
        open_image(b"P5 0 0 255\n", name="zero.pgm")


def test_ranges_without_a_white_are_refused():
    for mode, words in (("F", "floating-point"), ("I", "32-bit integers")):
        with refused("scan.tif", words, "8 or 16 bits"):
            open_image(encoded(Image.new(mode, (4, 4)), "TIFF"), name="scan.tif")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow, about tags it skips
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "PPM"])
def test_damaged_bytes_give_an_image_or_an_image_error(kind):
    generator, good = random.Random(4), encoded(ramp(20, 20), kind)
    refusals = 0
    for _ in range(60):
        data = bytearray(good)
        for _ in range(generator.randint(1, 8)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        try:
            image = open_image(bytes(data[: generator.randint(1, len(data))]), pixel_limit=10**6)
        except ImageError:
            refusals += 1
        else:
            assert image.mode == "RGB"
    assert refusals > 5
