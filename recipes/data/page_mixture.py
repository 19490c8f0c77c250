"""Pages from several places, mixed by weights."""

from typing import Any

from recipes.data.page_data import PageData, Source


class PageMixture(PageData):
    """Pages of any `recipes.data.records`, as often as their weights say; small sources come round again sooner.

    Args:
        tokenizer: folder with a checkpoint's tokenizer.json.
        sources: readers and their weights, by names of yours.
        options: of `PageData`.

    Raises:
        ValueError: no sources, a weight that is not positive, or what `PageData` refuses.
    """

    place = "data.sources"

    def __init__(self, tokenizer: str, sources: dict[str, Source], **options: Any) -> None:
        super().__init__(tokenizer, **options)
        if not sources:
            raise ValueError("data.sources must hold at least one source")
        for name, source in sources.items():
            if not source.weight > 0:
                raise ValueError(f"data.sources.{name}.weight must be positive, got {source.weight}")
        self._sources = sources

    def sources(self) -> dict[str, Source]:
        """As they were given."""
        return self._sources

    def key_of(self, source: str) -> str:
        """The source's own."""
        return f"data.sources.{source}"
