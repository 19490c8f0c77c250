"""A folder of images, each with its Markdown beside it: page.png and page.md."""

from functools import cached_property
from pathlib import Path

from encoders.images import open_image
from recipes.data.records.interface import Record, RecordError, Records

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".ppm", ".jp2", ".avif")
TEXT = ".md"


class PairFolder(Records):
    """Images below a folder that have their Markdown beside them; an image without is a fault.

    Args:
        path: the folder.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).expanduser()

    @cached_property
    def _images(self) -> tuple[list[Path], list[Path]]:
        if not self.path.is_dir():
            raise ValueError(f"'{self.path}' is no folder: give one with pages as page.png and page.md")
        images = [path for path in self.path.rglob("*") if path.suffix.lower() in IMAGES and path.is_file()]
        if not images:
            raise ValueError(f"'{self.path}' holds no images: give a folder with pages as page.png and page.md")
        images.sort(key=lambda path: path.relative_to(self.path).as_posix())
        paired = [path for path in images if path.with_suffix(TEXT).is_file()]
        return paired, [path for path in images if not path.with_suffix(TEXT).is_file()]

    @property
    def files(self) -> list[Path]:
        """Images that have their text."""
        return self._images[0]

    @property
    def faults(self) -> list[str]:
        """Images that have none."""
        return [f"{path}: has no Markdown beside it" for path in self._images[1]]

    def __len__(self) -> int:
        return len(self.files)

    def key(self, index: int) -> str:
        """Path below the folder."""
        return self.files[index].relative_to(self.path).as_posix()

    def read(self, index: int) -> Record:
        """Read image and Markdown."""
        path = self.files[index]
        return Record(open_image(path), read_text(path.with_suffix(TEXT)), self.key(index))


def read_text(path: Path) -> str:
    """A file's UTF-8.

    Raises:
        RecordError: it cannot be read, or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(str(path), f"cannot be read ({error})") from None
