"""A tokenizer of single bytes with the special tokens of DeepSeek-OCR 2, made on the spot."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

ENDS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]
MARKS = ["<image>", "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", "<|grounding|>", "<td>", "</td>", "<tr>", "</tr>"]
ROLES = ["<|User|>", "<|Assistant|>"]


def tiny_tokenizer() -> Tokenizer:
    """Tokens 0 to 2 begin, end and pad; 3 to 258 are bytes; `<image>` is 259, the other marks follow."""
    pieces = [*ENDS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in [*ENDS, *MARKS, *ROLES]])
    return tokenizer
