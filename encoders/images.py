"""Files -> RGB images, or one sentence that says which file and why not."""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

# of pages and photographs; Pillow knows more, some of which run programs (EPS) or hold no pixels (WMF)
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000", "AVIF")


class ImageError(ValueError):
    """An image that cannot be read; one sentence with the file's name and the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(" ".join(f"{name}: {reason}".split()))


def open_image(
    source: str | os.PathLike[str] | bytes, *, name: str | None = None, pixel_limit: int | None = None, page: int = 0
) -> Image.Image:
    """Read an image as RGB, upright.

    - What is transparent becomes white: paper is white and print is dark, and on black print would vanish.
    - 16-bit grey is scaled to 8 bits, not clipped. Integers of 32 bits and floats have no defined white: refused.
    - Of an animation the first frame; of a TIFF of several pages the one asked for.
    - EXIF orientation is applied. Colour profiles are not.

    Args:
        source: a file, or its bytes.
        name: for messages; by default the file's.
        pixel_limit: width x height that is still read, to stop decompression bombs. None, and anything above it, is
            Pillow's own: twice `PIL.Image.MAX_IMAGE_PIXELS`, 179 million pixels.
        page: from 0; see `page_count`.

    Raises:
        ImageError: a file that is missing, empty, no image, too large, truncated, corrupt, or of an undefined range.
    """
    with _opened(source, name) as (image, name):
        _check_size(image, name, pixel_limit)
        if page:
            if not 0 <= page < _pages(image):
                raise ImageError(name, f"has no page {page}, its pages are 0 to {_pages(image) - 1}")
            image.seek(page)
            _check_size(image, name, pixel_limit)
        image.load()
        return _rgb(ImageOps.exif_transpose(image), image, name)


def page_count(source: str | os.PathLike[str] | bytes, *, name: str | None = None) -> int:
    """How many pages a TIFF has; 1 for every other image, as frames of an animation are no pages.

    Raises:
        ImageError: as `open_image`, for what the header tells.
    """
    with _opened(source, name) as (image, name):
        return _pages(image)


@contextmanager
def _opened(source: str | os.PathLike[str] | bytes, name: str | None) -> Iterator[tuple[Image.Image, str]]:
    data, name = _read(source, name)
    try:
        with warnings.catch_warnings():
            # half of Pillow's limit is a warning
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                yield image, name
    except ImageError:
        raise
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(
            name, f"has more than {limit:,} pixels, as decompression bombs have; make it smaller"
        ) from None
    except UnidentifiedImageError:
        raise ImageError(name, f"is no image, or corrupt in its header; read are {', '.join(_formats())}") from None
    except MemoryError:
        raise ImageError(name, "is too large for this machine's memory") from None
    # decoders of broken bytes raise whatever they stumble over: struct.error, IndexError, SyntaxError, EOFError, ...
    except Exception as error:
        raise ImageError(name, f"is truncated or corrupt ({str(error) or type(error).__name__})") from error


def _pages(image: Image.Image) -> int:
    return image.n_frames if isinstance(image, TiffImagePlugin.TiffImageFile) else 1


def _formats() -> list[str]:
    # a Pillow may be built without some, and knows few before this
    Image.init()
    return [kind for kind in FORMATS if kind in Image.OPEN]


def _read(source: str | os.PathLike[str] | bytes, name: str | None) -> tuple[bytes, str]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, name = bytes(source), name or "image"
    else:
        path, name = Path(source), name or os.fspath(source)
        if path.is_dir():
            raise ImageError(name, "is a folder; give an image file")
        if path.exists() and not path.is_file():
            raise ImageError(name, "is no ordinary file")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ImageError(name, f"cannot be read ({error.strerror or error})") from None
    if not data:
        raise ImageError(name, "is empty (0 bytes)")
    return data, name


def _check_size(image: Image.Image, name: str, pixel_limit: int | None) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(name, f"has no pixels ({width} x {height})")
    if pixel_limit is not None and width * height > pixel_limit:
        raise ImageError(
            name, f"has {width:,} x {height:,} pixels, more than pixel_limit={pixel_limit:,}: make it smaller"
        )


def _rgb(upright: Image.Image, original: Image.Image, name: str) -> Image.Image:
    mode = upright.mode
    if mode.startswith("I;16") or (mode == "I" and original.format in ("PNG", "PPM")):
        return _from_16_bits(upright, original)
    if mode in ("I", "F"):
        kind = "32-bit integers" if mode == "I" else "floating-point numbers"
        raise ImageError(name, f"holds {kind}, whose white is not defined; save it with 8 or 16 bits a channel")
    if upright.has_transparency_data:
        colours = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")
    return upright.convert("RGB")


def _from_16_bits(upright: Image.Image, original: Image.Image) -> Image.Image:
    values = np.asarray(upright).astype(np.uint32)
    grey = (values * 255 + 32767) // 65535
    transparent = upright.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    # Pillow does not turn negatives of 16 bits, PhotometricInterpretation 0
    if isinstance(original, TiffImagePlugin.TiffImageFile) and original.tag_v2.get(262) == 0:
        grey = 255 - grey
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
