"""Lightning modules: what is trained."""

from recipes.modules.language_model import LanguageModel

__all__ = ["LanguageModel"]
