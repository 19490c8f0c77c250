"""Text to token numbers and back."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

Tokens = NDArray[np.unsignedinteger]


class Vocabulary(ABC):
    """A fixed set of tokens."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many tokens there are; numbers run from 0 to size - 1."""

    @abstractmethod
    def encode(self, text: str) -> Tokens:
        """Token numbers [T] of a text, in the smallest unsigned type that holds `size`."""

    @abstractmethod
    def decode(self, ids: ArrayLike) -> str:
        """The text of token numbers [T]."""

    def fit(self, text: str) -> None:
        """Take the tokens from a corpus, for vocabularies that have none before they see one."""
        return

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned type that holds every token number."""
        return np.min_scalar_type(max(self.size - 1, 0))


class ByteVocabulary(Vocabulary):
    """The 256 bytes of UTF-8."""

    @property
    def size(self) -> int:
        """256."""
        return 256

    def encode(self, text: str) -> Tokens:
        """UTF-8 bytes [T] of a text."""
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)

    def decode(self, ids: ArrayLike) -> str:
        """The text of bytes [T]; what is no UTF-8 becomes the replacement character."""
        return np.asarray(ids, dtype=np.uint8).tobytes().decode("utf-8", errors="replace")


class CharacterVocabulary(Vocabulary):
    """The characters of a corpus, in the order of their code points.

    Args:
        characters: the characters; None takes those of the corpus it is used with.
    """

    def __init__(self, characters: str | None = None) -> None:
        self._points: NDArray[np.uint32] | None = None
        if characters is not None:
            self.fit(characters)

    def fit(self, text: str) -> None:
        """Take the characters of a text, unless there are some already."""
        if self._points is None:
            self._points = np.unique(_code_points(text))

    @property
    def characters(self) -> str:
        """All characters, in order.

        Raises:
            ValueError: no corpus has been seen yet.
        """
        return _known(self._points).astype("<u4").tobytes().decode("utf-32-le")

    @property
    def size(self) -> int:
        """How many characters there are.

        Raises:
            ValueError: no corpus has been seen yet.
        """
        return len(_known(self._points))

    def encode(self, text: str) -> Tokens:
        """Positions [T] of a text's characters in the vocabulary.

        Raises:
            ValueError: a character is not in it.
        """
        known, points = _known(self._points), _code_points(text)
        if not len(points):
            return np.zeros(0, dtype=self.dtype)
        if not len(known):
            raise ValueError(f"character {text[0]!r} is not in the vocabulary of 0 characters")
        places = np.minimum(np.searchsorted(known, points), len(known) - 1)
        strange = known[places] != points
        if strange.any():
            raise ValueError(
                f"character {chr(points[strange.argmax()])!r} is not in the vocabulary of {self.size} characters"
            )
        return places.astype(self.dtype)

    def decode(self, ids: ArrayLike) -> str:
        """The text of character numbers [T]."""
        points = _known(self._points)[np.asarray(ids, dtype=np.int64)]
        return points.astype("<u4").tobytes().decode("utf-32-le")


class TokenizerFile(Vocabulary):
    """The tokens of a `tokenizers` file (`tokenizer.json`), without special tokens added.

    Long texts are encoded in pieces that end with a line, so that memory stays small.

    Args:
        path: the file.

    Raises:
        ValueError: there is no such file, or it is no tokenizer.
    """

    def __init__(self, path: str) -> None:
        from tokenizers import Tokenizer

        if not Path(path).is_file():
            raise ValueError(f"data.vocabulary.path {path!r} is not a file: give a tokenizer.json")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"data.vocabulary.path {path!r} is not a tokenizers file: {error}") from error

    @property
    def size(self) -> int:
        """How many tokens there are, added ones too."""
        highest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        return highest + 1

    def encode(self, text: str) -> Tokens:
        """Token numbers [T] of a text."""
        dtype = self.dtype
        pieces = (
            np.asarray(self._tokenizer.encode(piece, add_special_tokens=False).ids, dtype=dtype)
            for piece in _pieces(text)
        )
        return np.concatenate([np.zeros(0, dtype=dtype), *pieces])

    def decode(self, ids: ArrayLike) -> str:
        """The text of token numbers [T]."""
        return self._tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=False)


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")


def _known(points: NDArray[np.uint32] | None) -> NDArray[np.uint32]:
    if points is None:
        raise ValueError("a CharacterVocabulary has no characters before it has seen a corpus: call fit(text)")
    return points


def _pieces(text: str, length: int = 1_000_000) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = text.find("\n", start + length) + 1 or len(text)
        yield text[start:end]
        start = end
