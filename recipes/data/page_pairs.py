"""Where images and their Markdown are told apart."""

from recipes.data.records.pairs import IMAGES, TEXT

__all__ = ["IMAGES", "TEXT"]
