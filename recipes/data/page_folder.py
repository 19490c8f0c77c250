"""Pages from a folder."""

from typing import Any

from recipes.data.page_data import PageData, Source
from recipes.data.records.pairs import PairFolder


class PageFolder(PageData):
    """Pages as image and Markdown, page.png and page.md.

    Args:
        path: the folder.
        tokenizer: folder with a checkpoint's tokenizer.json.
        options: of `PageData`.

    Raises:
        ValueError: what `PageData` refuses.
    """

    def __init__(self, path: str, tokenizer: str, **options: Any) -> None:
        super().__init__(tokenizer, **options)
        self.path = path
        self._sources = {path: Source(PairFolder(path))}

    def sources(self) -> dict[str, Source]:
        """The folder alone."""
        return self._sources
