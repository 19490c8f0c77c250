"""Text goes to tokens and comes back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from recipes.data import ByteVocabulary, CharacterVocabulary, TokenizerFile
from recipes.data.vocabulary import _pieces


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> TokenizerFile:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(["to be or not to be"] * 9, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    made.save(str(path))
    return TokenizerFile(str(path))


@given(st.text())
def test_bytes_round_trip(text):
    vocabulary = ByteVocabulary()
    ids = vocabulary.encode(text)
    assert ids.dtype == np.uint8
    assert vocabulary.decode(ids) == text


@given(st.text(min_size=1))
def test_characters_round_trip(text):
    vocabulary = CharacterVocabulary()
    vocabulary.fit(text)
    assert vocabulary.characters == "".join(sorted(set(text)))
    ids = vocabulary.encode(text)
    assert ids.max() < vocabulary.size == len(set(text))
    assert vocabulary.decode(ids) == text


@settings(max_examples=50)
@given(text=st.text())
def test_tokenizer_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.uint16
    assert tokenizer.decode(ids) == text
    assert len(ids) == 0 or ids.max() < tokenizer.size


@given(st.text(alphabet="ab\n"), st.integers(1, 5))
def test_pieces_end_with_lines_and_lose_nothing(text, length):
    pieces = list(_pieces(text, length))
    assert "".join(pieces) == text
    assert all(piece.endswith("\n") for piece in pieces[:-1])


def test_characters_take_the_smallest_type():
    assert CharacterVocabulary("abc").encode("cab").dtype == np.uint8
    many = "".join(map(chr, range(1000, 1300)))
    assert CharacterVocabulary(many).encode(many).dtype == np.uint16


def test_characters_are_those_of_the_first_corpus():
    vocabulary = CharacterVocabulary("abc")
    vocabulary.fit("xyz")
    assert vocabulary.characters == "abc"
    with pytest.raises(ValueError, match="'x' is not in the vocabulary of 3"):
        vocabulary.encode("axb")


def test_characters_before_any_corpus():
    with pytest.raises(ValueError, match="corpus"):
        CharacterVocabulary().encode("a")


def test_tokenizer_file_errors(tmp_path):
    with pytest.raises(ValueError, match=r"data\.vocabulary\.path.*not a file"):
        TokenizerFile(str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match="not a tokenizers file"):
        TokenizerFile(str(tmp_path / "bad.json"))
