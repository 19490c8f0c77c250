"""Lightning modules: what is trained."""

from recipes.modules.language_model import LanguageModel
from recipes.modules.ocr import OCR

__all__ = ["OCR", "LanguageModel"]
