"""Data modules and vocabularies."""

from recipes.data.page_folder import PageFolder
from recipes.data.text_corpus import TextCorpus
from recipes.data.vocabulary import ByteVocabulary, CharacterVocabulary, TokenizerFile, Vocabulary

__all__ = ["ByteVocabulary", "CharacterVocabulary", "PageFolder", "TextCorpus", "TokenizerFile", "Vocabulary"]
