"""Which files a corpus is made of, and their text."""

import glob
import sysconfig
from collections.abc import Iterable
from pathlib import Path

# tests, other people's packages, and files that depend on how this Python was built
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def python_files() -> list[Path]:
    """Python's own documentation and the source of its standard library, in a fixed order.

    The text depends on the version of Python.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    source = sorted(
        (path.relative_to(root) for path in root.rglob("*.py")),
        key=lambda path: (path.parts != ("pydoc_data", "topics.py"), path.as_posix()),
    )
    return [
        root / path
        for path in source
        if not LEFT_OUT.intersection(path.parts) and not path.name.startswith("_sysconfigdata")
    ]


def matching_files(path: str) -> list[Path]:
    """The files of a path: itself, all below it if it is a folder, or what it matches as a pattern, sorted.

    Hidden files, and those in hidden folders, are left out of folders.

    Raises:
        ValueError: nothing is there.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    if place.is_dir():
        below = (found.relative_to(place) for found in place.rglob("*"))
        shown = [found for found in below if not any(part.startswith(".") for part in found.parts)]
        found = [place / name for name in sorted(shown, key=Path.as_posix) if (place / name).is_file()]
    else:
        found = [Path(name) for name in sorted(glob.glob(str(place), recursive=True)) if Path(name).is_file()]
    if not found:
        kind = "a folder without files" if place.is_dir() else "not found"
        raise ValueError(
            f"data.path {path!r} is {kind}: give a text file, a folder of them, or a pattern like 'a/*.txt'"
        )
    return found


def read_texts(paths: Iterable[Path]) -> tuple[list[str], list[Path]]:
    """Texts of the files that are UTF-8 text, and the paths of those that are not or cannot be read."""
    texts, skipped = [], []
    for path in paths:
        try:
            text = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError):
            skipped.append(path)
            continue
        if "\0" in text:
            skipped.append(path)
        else:
            texts.append(text)
    return texts, skipped
