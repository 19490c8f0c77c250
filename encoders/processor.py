"""Prompts and images -> tokens, mask and views; tokens -> text (DeepSeek-OCR 2, arXiv 2601.20552)."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from encoders.checkpoint import read_json, replacing
from encoders.views import ImageBatch, Views

IMAGE = "<image>"
FREE_OCR = "<image>\nFree OCR."
MARKDOWN = "<image>\n<|grounding|>Convert the document to markdown."

TOKENIZER, SETTINGS = "tokenizer.json", "ocr2_processor.json"


@dataclass(frozen=True)
class PromptBatch:
    """Prompts as the model reads them.

    Attributes:
        tokens: [B, S].
        mask: [B, S], True where a token is no padding.
        images: of all rows, in their order; None where there are none.
    """

    tokens: Tensor
    mask: Tensor
    images: ImageBatch | None

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move to a device; the precision is that of the views."""
        images = None if self.images is None else self.images.to(device, dtype)
        return replace(self, tokens=self.tokens.to(device), mask=self.mask.to(device), images=images)

    def pin_memory(self) -> Self:
        """Move to page-locked memory, which copies faster to a GPU; torch's data loader asks for it."""
        images = None if self.images is None else self.images.pin_memory()
        return replace(self, tokens=self.tokens.pin_memory(), mask=self.mask.pin_memory(), images=images)


class OCR2Processor:
    """Text by a checkpoint's tokenizer, images by views; `<image>` in a prompt is as many tokens as its features.

    Args:
        tokenizer: has `<image>` as an added token; its own truncation and padding are switched off.
        views: how images are cut; None is the paper's.
        page_tokens: features of a page; `model.vision.tokens_per_view` tells.
        crop_tokens: features of a crop. An image has crops x crop_tokens + page_tokens + 1, the separator.
        begin_token: first in every row.
        end_token: ends a text.
        padding_token: fills rows.

    Raises:
        ValueError: a count that is not positive, or a token that the tokenizer lacks.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        views: Views | None = None,
        page_tokens: int = 256,
        crop_tokens: int = 144,
        begin_token: int = 0,
        end_token: int = 1,
        padding_token: int = 2,
    ) -> None:
        if page_tokens < 1 or crop_tokens < 1:
            raise ValueError(f"page_tokens and crop_tokens must be at least 1, got {page_tokens} and {crop_tokens}")
        named = {"begin_token": begin_token, "end_token": end_token, "padding_token": padding_token}
        for name, number in named.items():
            if tokenizer.id_to_token(number) is None:
                raise ValueError(f"{name} is {number}, but the tokenizer has no such token")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer, self.views = tokenizer, Views() if views is None else views
        self.page_tokens, self.crop_tokens = page_tokens, crop_tokens
        self.begin_token, self.end_token, self.padding_token = begin_token, end_token, padding_token
        self.image_token = self.token(IMAGE)

    def __call__(
        self,
        prompts: Sequence[str],
        images: Sequence[Sequence[Image.Image]] | None = None,
        *,
        padding: str = "left",
        end: bool = False,
    ) -> PromptBatch:
        """Make a batch of prompts and the images of each.

        Args:
            prompts: a text a row, with an `<image>` for each of the row's images, such as `MARKDOWN`.
            images: a list of RGB images a row, which may be empty; None where no row has any.
            padding: "left" to generate, "right" to train.
            end: whether rows get the end token, which training texts need.

        Raises:
            ValueError: no prompts, lists of different lengths, marks and images of different number (with the row), or
                what `Views` refuses.
        """
        if isinstance(prompts, str) or not prompts:
            raise ValueError("prompts must be a list of at least one text")
        if padding not in ("left", "right"):
            raise ValueError(f'padding must be "left" or "right", got {padding!r}')
        if images is None:
            images = [[] for _ in prompts]
        if len(images) != len(prompts) or any(isinstance(row, Image.Image) for row in images):
            raise ValueError(
                f"images must be one list of images a prompt, got {len(images)} for {len(prompts)} prompts"
            )
        texts = [self.encode(prompt) for prompt in prompts]
        for number, (text, row) in enumerate(zip(texts, images, strict=True)):
            if (marks := text.count(self.image_token)) != len(row):
                raise ValueError(f"row {number} has {_count(len(row), 'image')} for {_count(marks, f'{IMAGE} mark')}")
        views = [[self.views(image) for image in row] for row in images]
        rows = [
            [self.begin_token, *self.expand(text, [len(crops) for _, crops in row]), *[self.end_token] * end]
            for text, row in zip(texts, views, strict=True)
        ]
        cut = [view for row in views for view in row]
        return PromptBatch(*self._pad(rows, padding), ImageBatch.collate(cut) if cut else None)

    def encode(self, text: str) -> list[int]:
        """Text -> token numbers, without first and end token; `<image>` is one."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def expand(self, tokens: Sequence[int], crop_counts: Sequence[int]) -> list[int]:
        """Repeat every image token for each feature of its image.

        Args:
            tokens: of a prompt.
            crop_counts: of its images.

        Raises:
            ValueError: another number of images than image tokens.
        """
        if tokens.count(self.image_token) != len(crop_counts):
            raise ValueError(f"{len(crop_counts)} images for {tokens.count(self.image_token)} image tokens")
        counts = iter(crop_counts)
        expanded: list[int] = []
        for token in tokens:
            image = token == self.image_token
            expanded += [token] * (self.image_tokens(next(counts)) if image else 1)
        return expanded

    def image_tokens(self, crops: int) -> int:
        """How many features an image with so many crops has: crops, page, separator."""
        return crops * self.crop_tokens + self.page_tokens + 1

    def decode(self, tokens: Tensor | Sequence[int], *, special: bool = True) -> str | list[str]:
        """Token numbers [S] -> text, or [B, S] -> texts; without first, end and padding tokens.

        Args:
            tokens: as `generate` gives them.
            special: whether other tokens that the tokenizer calls special, such as `<|ref|>`, are written.

        Raises:
            ValueError: a negative number, such as a label that is ignored.
        """
        if isinstance(tokens, Tensor) and tokens.dim() == 2:
            return [self._text(row, special) for row in tokens.tolist()]
        return self._text(tokens.tolist() if isinstance(tokens, Tensor) else tokens, special)

    def token(self, name: str) -> int:
        """The number of a token that is written in one piece.

        Raises:
            ValueError: the tokenizer has no such token, or cuts it into several.
        """
        number = self.tokenizer.token_to_id(name)
        if number is None:
            raise ValueError(f"the tokenizer has no token {name}: take the tokenizer.json of an OCR 2 checkpoint")
        if self.encode(name) != [number]:
            raise ValueError(f"the tokenizer cuts {name} into pieces: make it an added token")
        return number

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **settings: Any) -> Self:
        """Read a checkpoint's tokenizer, and the settings if there are some.

        Args:
            folder: holds tokenizer.json, and ocr2_processor.json where `save_pretrained` wrote it.
            **settings: arguments of the class that come before those of the folder.

        Raises:
            ValueError: a missing or broken file, by name, or settings that the class refuses.
        """
        folder = Path(folder)
        path = folder / TOKENIZER
        if not path.is_file():
            raise ValueError(f"{folder} has no {TOKENIZER}: give the folder of a checkpoint with its tokenizer")
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        # tokenizers raises Exception itself
        except Exception as error:
            raise ValueError(f"{path} is no tokenizer: {error}") from error
        path = folder / SETTINGS
        return cls(tokenizer, **((_settings(path) if path.is_file() else {}) | settings))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write tokenizer and settings; each file appears whole or not at all.

        Raises:
            OSError: the folder cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"views": asdict(self.views)} | {name: getattr(self, name) for name in _NUMBERS}
        with replacing(folder, [TOKENIZER, SETTINGS]) as temporary:
            temporary[TOKENIZER].write_text(self.tokenizer.to_str(pretty=True), encoding="utf-8")
            temporary[SETTINGS].write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    def _pad(self, rows: Sequence[Sequence[int]], padding: str) -> tuple[Tensor, Tensor]:
        length = max(map(len, rows))
        tokens = torch.full((len(rows), length), self.padding_token)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for number, row in enumerate(rows):
            start = length - len(row) if padding == "left" else 0
            tokens[number, start : start + len(row)] = torch.tensor(row)
            mask[number, start : start + len(row)] = True
        return tokens, mask

    def _text(self, row: Sequence[int], special: bool) -> str:
        if min(row, default=0) < 0:
            raise ValueError(f"tokens to decode must not be negative, got {min(row)}")
        left_out = {self.begin_token, self.end_token, self.padding_token}
        return self.tokenizer.decode([token for token in row if token not in left_out], skip_special_tokens=not special)


_NUMBERS = ("page_tokens", "crop_tokens", "begin_token", "end_token", "padding_token")


def _settings(path: Path) -> dict[str, Any]:
    settings = read_json(path)
    unknown = sorted(settings.keys() - {"views", *_NUMBERS})
    if unknown:
        raise ValueError(f"{path} has {', '.join(unknown)}, which no setting is called")
    for name in settings.keys() & set(_NUMBERS):
        if type(settings[name]) is not int:
            raise ValueError(f"{path}: {name} must be a whole number, got {settings[name]!r}")
    if "views" in settings:
        if not isinstance(settings["views"], Mapping):
            raise ValueError(f"{path}: views must hold the arguments of Views, got {settings['views']!r}")
        try:
            settings["views"] = Views(**settings["views"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: views: {error}") from None
    return settings


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
