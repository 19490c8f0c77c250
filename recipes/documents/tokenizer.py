"""Small tokenizers that need no download: bytes, or byte pairs learned from a corpus, with OCR 2's special tokens.

`python -m recipes.documents.tokenizer --output FOLDER [--size 1024] [--text PATH]`.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from recipes.data.text_files import matching_files, python_files, read_texts
from recipes.files import replace_file

ENDS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>")
MARKS = ("<image>", "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "<|grounding|>", "<td>", "</td>", "<tr>", "</tr>")
ROLES = ("<|User|>", "<|Assistant|>")
# tokens of the byte tokenizer, and the number of `<image>` in it
BYTES = len(ENDS) + 256 + len(MARKS) + len(ROLES)
BYTE_IMAGE = len(ENDS) + 256


def byte_tokenizer() -> Tokenizer:
    """Tokens 0 to 2 begin, end and pad; 3 to 258 are the bytes; `<image>` is 259, and the other marks follow."""
    return _finished(models.BPE(vocab=_bytes(), merges=[]))


def trained_tokenizer(texts: Sequence[str], size: int) -> Tokenizer:
    """`size` tokens: those of the byte tokenizer, and the pairs of bytes that are most frequent in the texts.

    Raises:
        ValueError: a size without room for bytes and marks, or texts that hold fewer different pairs.
    """
    if size < BYTES:
        raise ValueError(f"size must be at least {BYTES}, the bytes and the special tokens, got {size}")
    if size == BYTES:
        return byte_tokenizer()
    learning = Tokenizer(models.BPE())
    learning.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(MARKS) - len(ROLES),
        special_tokens=list(ENDS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    learning.train_from_iterator(texts, trainer)
    if learning.get_vocab_size() + len(MARKS) + len(ROLES) < size:
        raise ValueError(
            f"the text gives {learning.get_vocab_size() + len(MARKS) + len(ROLES)} tokens, not {size}: lower size, or "
            "give more text"
        )
    return _finished(learning.model)


def write_tokenizer(folder: str | os.PathLike[str], tokenizer: Tokenizer) -> Path:
    """Write tokenizer.json into a folder, whole or not at all; returns the folder."""
    replace_file(Path(folder) / "tokenizer.json", tokenizer.to_str(pretty=True))
    return Path(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a tokenizer; returns 2 where it cannot be made."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.documents.tokenizer",
        description="Write a small tokenizer.json with the special tokens of OCR 2.",
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="gets tokenizer.json")
    parser.add_argument("--size", type=int, default=BYTES, help=f"tokens; the default of {BYTES} is bytes alone")
    parser.add_argument("--text", metavar="PATH", help="to learn from; Python's own documentation if not given")
    options = parser.parse_args(arguments)
    try:
        files = python_files() if options.text is None else matching_files(options.text)
        texts = read_texts(files)[0] if options.size > BYTES else []
        tokenizer = trained_tokenizer(texts, options.size)
        write_tokenizer(options.output, tokenizer)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: {tokenizer.get_vocab_size()} tokens, <image> is {tokenizer.token_to_id('<image>')}")
    return 0


def _bytes() -> dict[str, int]:
    return {piece: number for number, piece in enumerate((*ENDS, *sorted(pre_tokenizers.ByteLevel.alphabet())))}


def _finished(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = (*ENDS, *MARKS, *ROLES)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return tokenizer


if __name__ == "__main__":
    sys.exit(main())
