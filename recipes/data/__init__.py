"""Data modules and vocabularies."""

from recipes.data.text_corpus import TextCorpus
from recipes.data.vocabulary import ByteVocabulary, CharacterVocabulary, TokenizerFile, Vocabulary

__all__ = ["ByteVocabulary", "CharacterVocabulary", "TextCorpus", "TokenizerFile", "Vocabulary"]
