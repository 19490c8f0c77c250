"""Data modules and vocabularies."""

from recipes.data.glyph_pages import GlyphPages
from recipes.data.page_folder import PageFolder
from recipes.data.page_mixture import PageMixture
from recipes.data.text_corpus import TextCorpus
from recipes.data.vocabulary import ByteVocabulary, CharacterVocabulary, TokenizerFile, Vocabulary

__all__ = [
    "ByteVocabulary",
    "CharacterVocabulary",
    "GlyphPages",
    "PageFolder",
    "PageMixture",
    "TextCorpus",
    "TokenizerFile",
    "Vocabulary",
]
