"""JSONL: a line a page, with its image as a path or in base64."""

import base64
import binascii
import json
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.images import open_image
from recipes.data.records.interface import Record, RecordError, Records, find_files


class JSONLines(Records):
    """Lines such as {"image": "page.png", "text": "# Title"}, read from their places in the files.

    Args:
        path: a file, a folder, or a pattern.
        image: field with a path, from the folder of the file, or a `data:image/png;base64,` text.
        image_base64: field with bare base64, for lines that have it in place of `image`.
        text: field with the Markdown.
    """

    def __init__(self, path: str, image: str = "image", image_base64: str = "image_base64", text: str = "text") -> None:
        self.path, self.image, self.image_base64, self.text = path, image, image_base64, text

    @cached_property
    def files(self) -> list[Path]:
        """The files."""
        return find_files(self.path, (".jsonl", ".ndjson"))

    @cached_property
    def _lines(self) -> NDArray[np.int64]:
        """[lines, 4]: file, number from 1, begin and end of every line that is not blank."""
        found = []
        for number, path in enumerate(self.files):
            begin = 0
            with path.open("rb") as file:
                for line, content in enumerate(file, 1):
                    if content.strip():
                        found.append((number, line, begin, begin + len(content)))
                    begin += len(content)
        return np.array(found, dtype=np.int64).reshape(-1, 4)

    def __len__(self) -> int:
        return len(self._lines)

    def key(self, index: int) -> str:
        """File and line."""
        file, line, *_ = self._lines[index]
        return f"{self.files[file].name} line {line}"

    def read(self, index: int) -> Record:
        """Parse the line and read its image."""
        key = self.key(index)
        number, _, begin, end = self._lines[index].tolist()
        path = self.files[number]
        try:
            with path.open("rb") as file:
                file.seek(begin)
                line = json.loads(file.read(end - begin))
        except (OSError, ValueError) as error:
            raise RecordError(key, f"is no JSON ({error})") from None
        if not isinstance(line, dict) or not isinstance(line.get(self.text), str):
            raise RecordError(key, f"has no text in {self.text!r}")
        return Record(self._open(line, path.parent, key), line[self.text], key)

    def _open(self, line: dict[str, object], folder: Path, key: str) -> Image.Image:
        bare, image = line.get(self.image_base64), line.get(self.image)
        if isinstance(image, str) and image.startswith("data:"):
            bare = image.partition(",")[2]
        if isinstance(bare, str):
            try:
                return open_image(base64.b64decode(bare, validate=True), name=key)
            except binascii.Error as error:
                raise RecordError(key, f"has an image that is no base64 ({error})") from None
        if not isinstance(image, str):
            raise RecordError(key, f"has no image in {self.image!r} or {self.image_base64!r}")
        path = folder / image
        return open_image(path, name=f"{key}: {path}")
