"""Words for documents, out of the corpus that the language-model recipe reads."""

import hashlib
import re
from abc import ABC, abstractmethod
from functools import lru_cache

from recipes.data.text_files import matching_files, python_files, read_texts
from recipes.documents.draws import Draws

# letters that typst's own fonts hold: Latin, with accents
_LOWER = "[a-zß-öø-ÿ]"
_PROSE_WORD = rf"(?:[A-ZÀ-ÖØ-Þ]?{_LOWER}{{2,}}+(?:['’-]{_LOWER}++)*+|[AaI](?![A-Za-zÀ-ſ])),?+[;:.!?]?+(?!\S)"
# at least five words one after the other are prose, and not code; possessive, so that a failure costs nothing
PROSE = re.compile(rf"(?<!\S){_PROSE_WORD}(?:\s++{_PROSE_WORD}){{4,}}+")
MARKS = ",;:.!?"
# the shortest line takes words of so many letters with their mark
SHORT = 6


class Corpus:
    """The words of a text's prose, one after the other.

    Args:
        text: of any kind.
        name: of the place that it is from, for messages.

    Raises:
        ValueError: nowhere do five words of Latin letters stand in a row, or all words are long.

    Attributes:
        words: with the marks behind them.
        sha256: of them all.
    """

    def __init__(self, text: str, name: str = "text") -> None:
        self.words = [word for match in PROSE.finditer(text) for word in match[0].split()]
        if not any(len(word) <= SHORT for word in self.words):
            raise ValueError(
                f"data.path {name!r} holds no words to make documents of: give a text in Latin letters, with five "
                f"words in a row somewhere, and some of at most {SHORT} letters"
            )
        self.sha256 = hashlib.sha256(" ".join(self.words).encode()).hexdigest()

    @classmethod
    def read(cls, path: str | None = None) -> "Corpus":
        """Read a text file, a folder of them, or a pattern; None is Python's own documentation and library.

        Raises:
            ValueError: nothing is there, or no words.
        """
        return _read(path)


@lru_cache(maxsize=2)
def _read(path: str | None) -> Corpus:
    texts, _ = read_texts(python_files() if path is None else matching_files(path))
    return Corpus("\n".join(texts), "Python's own documentation and standard library" if path is None else path)


class TextSource(ABC):
    """Gives words.

    Args:
        corpus: where they are from.
        draws: which.
        longest: letters of a word, at least `SHORT`; longer ones are left out, for they would not fit a line.
    """

    def __init__(self, corpus: Corpus, draws: Draws, longest: int) -> None:
        self.corpus, self.draws, self.longest = corpus, draws, longest

    @abstractmethod
    def words(self, count: int) -> list[str]:
        """So many words, some with a mark behind them."""

    def text(self, count: int) -> str:
        """So many words as running text: capitals first, full stops at the end."""
        sentences = []
        while count > 0:
            length = min(self.draws.integer(4, 14), count)
            sentences.append(self.sentence(length))
            count -= length
        return " ".join(sentences)

    def sentence(self, count: int) -> str:
        """So many words that begin with a capital and end with a full stop."""
        return _capital(" ".join(self.words(count)).rstrip(MARKS) + ".")

    def label(self, count: int) -> str:
        """So many words without marks, the first with a capital."""
        return _capital(" ".join(word.rstrip(MARKS) for word in self.words(count)))


class Prose(TextSource):
    """Words that follow one another in the corpus."""

    def words(self, count: int) -> list[str]:
        """So many, from a random place on."""
        words = self.corpus.words
        found: list[str] = []
        start = self.draws.integer(0, len(words) - 1)
        while len(found) < count:
            found += [word for word in words[start : start + 2 * count] if len(word) <= self.longest]
            start = start + 2 * count if start + 2 * count < len(words) else 0
        return found[:count]

    def text(self, count: int) -> str:
        """So many words as they follow one another."""
        return self.sentence(count)


class RandomWords(TextSource):
    """Words of the corpus, each from another place: no word tells of the next one."""

    def words(self, count: int) -> list[str]:
        """So many words."""
        return [self._word() for _ in range(count)]

    def _word(self) -> str:
        while True:
            word = self.draws.choice(self.corpus.words).rstrip(MARKS)
            if len(word) <= self.longest:
                return word


class RandomLetters(TextSource):
    """Letters in random order: no letter tells of the next one."""

    def words(self, count: int) -> list[str]:
        """So many strings of 2 to 8 letters."""
        return ["".join(self.draws.choice(_LETTERS) for _ in range(self._length())) for _ in range(count)]

    def _length(self) -> int:
        return self.draws.integer(2, min(8, self.longest))


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
