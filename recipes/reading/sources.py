"""Images and PDFs as sources of pages, which are drawn one at a time."""

import stat
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import pypdfium2
from PIL import Image
from pypdfium2 import raw as pdfium

from encoders.images import ImageError, open_image, page_count

PDF = ".pdf"
IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".pbm", ".pgm", ".ppm", ".jp2", ".avif")
TIFFS = (".tif", ".tiff")
POINTS_PER_INCH = 72


class Source(ABC):
    """A file of pages.

    Attributes:
        path: of the file.
        pages: how many it has.
        window: of the no-repeat rule that suits it (reference: 90 for images, 50 for PDF pages).
        numbered: whether output names carry the page's number.
    """

    window: int
    numbered: bool

    def __init__(self, path: Path, pages: int) -> None:
        self.path, self.pages = path, pages

    def name(self, page: int) -> str:
        """Of the output, without suffix: `photo`, `document-0001`."""
        return f"{self.path.stem}-{page + 1:04d}" if self.numbered else self.path.stem

    def label(self, page: int) -> str:
        """For people: `photo.png`, `document.pdf page 1`."""
        return f"{self.path} page {page + 1}" if self.numbered else str(self.path)

    @abstractmethod
    def draw(self, page: int) -> Image.Image:
        """The page as an RGB image.

        Raises:
            ImageError: it cannot be read.
        """

    def close(self) -> None:  # noqa: B027
        """Let go of the file."""


class Picture(Source):
    """An image; a TIFF may hold several pages.

    Raises:
        ImageError: a TIFF that cannot be read. Other images are looked at when they are drawn.
    """

    window = 90

    def __init__(self, path: Path) -> None:
        super().__init__(path, page_count(path) if path.suffix.lower() in TIFFS else 1)
        self.numbered = self.pages > 1

    def draw(self, page: int) -> Image.Image:
        """Read the image, or its page."""
        return open_image(self.path, page=page)


class Document(Source):
    """A PDF.

    Args:
        path: of the file.
        dpi: pixels an inch.

    Raises:
        ImageError: it is missing, encrypted, broken or without pages.
    """

    window, numbered = 50, True

    def __init__(self, path: Path, dpi: int) -> None:
        self._document: pypdfium2.PdfDocument | None = None
        self.dpi = dpi
        # closed again until its turn comes: there may be thousands
        document = _open(path)
        super().__init__(path, len(document))
        document.close()
        if not self.pages:
            raise ImageError(str(path), "has no pages")

    def draw(self, page: int) -> Image.Image:
        """Render a page on white."""
        if self._document is None:
            self._document = _open(self.path)
            # what is filled into forms is drawn only then
            self._document.init_forms()
        name, scale = self.label(page), self.dpi / POINTS_PER_INCH
        try:
            drawn = self._document[page]
            width, height = (side * scale for side in drawn.get_size())
            if width * height > 2 * (Image.MAX_IMAGE_PIXELS or float("inf")):
                raise ImageError(name, f"has {width:,.0f} x {height:,.0f} pixels at {self.dpi} dpi; give a lower --dpi")
            image = drawn.render(scale=scale).to_pil().convert("RGB")
            drawn.close()
        except pypdfium2.PdfiumError as error:
            raise ImageError(name, f"cannot be drawn ({error})") from None
        return image

    def close(self) -> None:
        """Let go of the PDF."""
        if self._document is not None:
            self._document.close()
            self._document = None


def find(path: Path, dpi: int) -> list[Callable[[], Source]]:
    """What makes the sources of a file, or of a folder's own files in the order of their names.

    Raises:
        ImageError: nothing there, a folder without images and PDFs, or one that cannot be listed.
    """
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return [_maker(path, dpi)]
    except OSError as error:
        raise ImageError(str(path), f"cannot be read ({error.strerror or error})") from None
    try:
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in (PDF, *IMAGES) and file.is_file())
    except OSError as error:
        raise ImageError(str(path), f"cannot be listed ({error.strerror or error})") from None
    if not files:
        raise ImageError(str(path), "is a folder without images and PDFs; folders in it are not looked into")
    return [_maker(file, dpi) for file in files]


def _maker(path: Path, dpi: int) -> Callable[[], Source]:
    return (lambda: Document(path, dpi)) if path.suffix.lower() == PDF else (lambda: Picture(path))


def _open(path: Path) -> pypdfium2.PdfDocument:
    try:
        # what pdfium would wait for, or call broken
        if not path.is_file():
            raise ImageError(str(path), "is no ordinary file")
        with path.open("rb") as file:
            if not file.read(1):
                raise ImageError(str(path), "is empty (0 bytes)")
        return pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if error.err_code == pdfium.FPDF_ERR_PASSWORD:
            raise ImageError(str(path), "is encrypted; save it without a password") from None
        raise ImageError(str(path), f"is no PDF, or broken ({error})") from None
    except OSError as error:
        raise ImageError(str(path), f"cannot be read ({error.strerror or error})") from None
