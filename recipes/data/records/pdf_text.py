"""PDFs with a text layer: the page as it is drawn, and its own text as truth."""

from functools import cached_property
from pathlib import Path

import pypdfium2
from PIL import Image

from encoders.images import ImageError
from recipes.data.records.interface import Record, RecordError, Records, find_files
from recipes.reading.sources import Document

# what PDFium puts where a word was cut at the end of a line, and joined
CUTS = ("\x02", "\ufffe")


class PDFText(Records):
    """Pages of PDFs that carry text; one that carries none, such as a scan, is broken.

    The text is plain, a line a printed line, in the order of the file, which need not be the order of reading.

    Args:
        path: a PDF, a folder, or a pattern.
        dpi: pixels an inch.
        min_characters: that a page must have, so that the stamp on a scan is no text layer.
    """

    def __init__(self, path: str, dpi: int = 144, min_characters: int = 1) -> None:
        self.path, self.dpi, self.min_characters = path, dpi, min_characters

    @cached_property
    def _found(self) -> tuple[list[Path], list[tuple[int, int]], list[str]]:
        files, pages, faults = find_files(self.path, (".pdf",)), [], []
        for number, path in enumerate(files):
            try:
                pages += [(number, page) for page in range(Document(path, self.dpi).pages)]
            except ImageError as error:
                faults.append(str(error))
        return files, pages, faults

    @property
    def files(self) -> list[Path]:
        """The PDFs."""
        return self._found[0]

    @property
    def faults(self) -> list[str]:
        """PDFs that cannot be opened."""
        return self._found[2]

    def __len__(self) -> int:
        return len(self._found[1])

    def key(self, index: int) -> str:
        """PDF and page."""
        file, page = self._found[1][index]
        return f"{self.files[file].name} page {page + 1}"

    def read(self, index: int) -> Record:
        """Draw the page, and take its text."""
        file, page = self._found[1][index]
        key = self.key(index)
        image, text = draw(self.files[file], page, self.dpi)
        if len(text) < max(self.min_characters, 1):
            found = f"a text layer of {len(text)} characters alone" if text else "no text layer"
            raise RecordError(key, f"has {found}")
        return Record(image, text, key)


def draw(path: Path, page: int, dpi: int) -> tuple[Image.Image, str]:
    """A page of a PDF, and what its text layer says.

    Raises:
        ImageError: it cannot be opened or drawn.
    """
    document = _Pages(path, dpi)
    try:
        return document.draw(page), document.text(page)
    finally:
        document.close()


class _Pages(Document):
    def text(self, page: int) -> str:
        """What the text layer of a page that has been drawn says."""
        assert self._document is not None
        try:
            text = self._document[page].get_textpage().get_text_bounded()
        except pypdfium2.PdfiumError as error:
            raise ImageError(self.label(page), f"has a text layer that cannot be read ({error})") from None
        for cut in CUTS:
            text = text.replace(cut, "")
        return text.replace("\r\n", "\n").strip()
