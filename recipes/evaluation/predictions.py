"""A folder of Markdown files, one a page, as OmniDocBench looks for them."""

from pathlib import Path

from recipes.errors import UserError
from recipes.evaluation.truth import Page, PageError

SUFFIXES = (".md", ".mmd")


def find_prediction(folder: Path, image: str) -> Path | None:
    """The file of an image's prediction, None where there is none.

    `page.pdf_7.jpg` is looked for as page.pdf_7.md, page_7.mmd, page_7.md and page.pdf_7.jpg.md.
    """
    stem = Path(image).stem
    bare = stem.replace(".pdf", "")
    for name in (f"{stem}.md", f"{bare}.mmd", f"{bare}.md", f"{image}.md"):
        if (folder / name).is_file():
            return folder / name
    return None


def read_prediction(path: Path) -> str:
    """The text of a prediction.

    Raises:
        PageError: it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise PageError(f"{path} cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise PageError(f"{path} is no UTF-8 text (byte {error.start})") from None


def list_predictions(folder: Path, pages: list[Page]) -> tuple[dict[str, Path], list[Path]]:
    """Predictions by page, and the files that are of no page.

    Raises:
        UserError: no such folder, or one without any prediction of these pages.
    """
    if not folder.is_dir():
        raise UserError(f"--predictions: {folder} is no folder")
    found = {page.name: path for page in pages if (path := find_prediction(folder, page.name))}
    if not found:
        raise UserError(
            f"--predictions: {folder} has no prediction of any of the {len(pages)} pages; the one of {pages[0].name} "
            f"would be {Path(pages[0].name).stem}.md"
        )
    used = set(found.values())
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    return found, [path for path in files if path not in used]
