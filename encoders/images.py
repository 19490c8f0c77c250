"""Files -> RGB images, or one sentence that says which file and why not."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# of pages and photographs; Pillow knows more, some of which run programs (EPS) or hold no pixels (WMF)
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000", "AVIF")


class ImageError(ValueError):
    """An image that cannot be read; one sentence with the file's name and the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(" ".join(f"{name}: {reason}".split()))


def open_image(
    source: str | os.PathLike[str] | bytes, *, name: str | None = None, pixel_limit: int | None = None
) -> Image.Image:
    """Read an image as RGB, upright.

    - What is transparent becomes white: paper is white and print is dark, and on black print would vanish.
    - 16-bit grey is scaled to 8 bits, not clipped. Integers of 32 bits and floats have no defined white: refused.
    - Of an animation or a file of several pages, the first.
    - EXIF orientation is applied. Colour profiles are not.

    Args:
        source: a file, or its bytes.
        name: for messages; by default the file's.
        pixel_limit: width x height that is still read, to stop decompression bombs. None, and anything above it, is
            Pillow's own: twice `PIL.Image.MAX_IMAGE_PIXELS`, 179 million pixels.

    Raises:
        ImageError: a file that is missing, empty, no image, too large, truncated, corrupt, or of an undefined range.
    """
    data, name = _read(source, name)
    try:
        with warnings.catch_warnings():
            # half of Pillow's limit is a warning
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                _check_size(image, name, pixel_limit)
                image.load()
                return _rgb(ImageOps.exif_transpose(image), image, name)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(name, f"{error}; make it smaller or raise PIL.Image.MAX_IMAGE_PIXELS") from None
    except UnidentifiedImageError:
        raise ImageError(name, f"is no image, or corrupt in its header; read are {', '.join(_formats())}") from None
    except MemoryError:
        raise ImageError(name, "is too large for this machine's memory") from None
    # decoders of broken bytes raise whatever they stumble over: struct.error, IndexError, SyntaxError, EOFError, ...
    except Exception as error:
        raise ImageError(name, f"is truncated or corrupt ({str(error) or type(error).__name__})") from error


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
    if original.format == "TIFF" and original.tag_v2.get(262) == 0:
        grey = 255 - grey
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
