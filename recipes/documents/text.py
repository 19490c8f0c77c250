"""Words for documents, out of the corpus that the language-model recipe reads."""

import hashlib
import itertools
import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator
from functools import lru_cache

from recipes.data.text_files import matching_files, python_files, read_texts
from recipes.documents.draws import Draws

# letters that typst's own fonts hold: Latin, with accents
WORD = re.compile(r"[A-Za-zÀ-ÖØ-öø-ſ]++(?:['’-][A-Za-zÀ-ÖØ-öø-ſ]++)*+")
_LOWER = "[a-zß-öø-ÿ]"
_PROSE_WORD = rf"(?:[A-ZÀ-ÖØ-Þ]?{_LOWER}{{2,}}+(?:['’-]{_LOWER}++)*+|[AaI](?![A-Za-zÀ-ſ])),?+[;:.!?]?+(?!\S)"
# at least five words one after the other are prose, and not code; possessive, so that a failure costs nothing
PROSE = re.compile(rf"(?<!\S){_PROSE_WORD}(?:\s++{_PROSE_WORD}){{4,}}+")


class Corpus:
    """A text to take words from.

    Args:
        text: of any kind.
        name: of the place that it is from, for messages.

    Raises:
        ValueError: fewer than five words of Latin letters stand in a row anywhere.
    """

    def __init__(self, text: str, name: str = "text") -> None:
        self.text, self.sha256 = text, hashlib.sha256(text.encode()).hexdigest()
        spans = array("Q", (place for match in PROSE.finditer(text) for place in match.span()))
        if not spans:
            raise ValueError(
                f"data.path {name!r} holds no words: documents need a text with words of Latin letters, five in a row"
            )
        self._spans = spans

    @classmethod
    def read(cls, path: str | None = None) -> "Corpus":
        """Read a text file, a folder of them, or a pattern; None is Python's own documentation and library.

        Raises:
            ValueError: nothing is there, or no words.
        """
        return _read(path)

    def words(self, draws: Draws) -> Iterator[str]:
        """Words of prose from a random place on, without end: behind the text's last one comes its first."""
        count = len(self._spans) // 2
        first = draws.integer(0, count - 1)
        for number in itertools.count(first):
            start, end = self._spans[2 * (number % count) : 2 * (number % count) + 2]
            yield from self.text[start:end].split()

    def word(self, draws: Draws) -> str:
        """A word of prose, each one of equal chance that its run is as long as the others'."""
        place = 2 * draws.integer(0, len(self._spans) // 2 - 1)
        return draws.choice(self.text[self._spans[place] : self._spans[place + 1]].split())


@lru_cache(maxsize=2)
def _read(path: str | None) -> Corpus:
    texts, _ = read_texts(python_files() if path is None else matching_files(path))
    return Corpus("\n".join(texts), "Python's own documentation and standard library" if path is None else path)


class TextSource(ABC):
    """Gives words.

    Args:
        corpus: where they are from.
        draws: which.
        longest: letters of a word; longer ones are left out, for they would not fit a line.
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
        fitting = (word for word in self.corpus.words(self.draws) if len(word) <= self.longest)
        return list(itertools.islice(fitting, count))

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
            word = self.corpus.word(self.draws).rstrip(MARKS)
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
MARKS = ",;:.!?"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
