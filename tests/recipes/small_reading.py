"""A checkpoint that writes letters, pages, and the command that reads them into out/."""

from functools import partial
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from tiny_tokenizer import tiny_tokenizer

from encoders.causal_flow import CausalFlowEncoder
from encoders.ocr2 import OCR2
from encoders.patch import PatchTokenizer
from encoders.processor import OCR2Processor
from encoders.query_bank import QueryBank
from encoders.released import save_ocr2
from encoders.views import Views
from mhc import Attention, CausalLanguageModel, Residual, SwiGLU
from recipes.read import main

VIEWS = Views(global_size=32, crop_size=16)
OUTPUT = "out"


def write_checkpoint(folder: Path) -> Path:
    """A model of random weights that never ends a text by itself, and its tokenizer."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    model = OCR2(
        tokenizer=PatchTokenizer(width=16, patch=8),
        encoder=CausalFlowEncoder(width=16, depth=1, heads=2, key_value_heads=1, hidden=16),
        queries=QueryBank(width=16, counts={32: 3, 16: 2}, stride=8),
        decoder=CausalLanguageModel(
            tokenizer.get_vocab_size(), 16, 1, topology=Residual, attention=partial(Attention, heads=2),
            feed_forward=partial(SwiGLU, hidden=16), tied=False,
        ),
        image_token=tokenizer.token_to_id("<image>"),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
        # letters alone: bytes that are no text, and marks, would be stripped or replaced
        letters = [tokenizer.token_to_id(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
        others = torch.ones(tokenizer.get_vocab_size(), dtype=torch.bool)
        others[letters] = False
        model.decoder.head.weight[others] = 0
    save_ocr2(model, folder)
    OCR2Processor(tokenizer, views=VIEWS).save_pretrained(folder)
    return folder


def page(size=(40, 30), seed: int = 0) -> Image.Image:
    image = Image.new("RGB", size, "white")
    drawing = ImageDraw.Draw(image)
    for line in range(seed % 7 + 1):
        drawing.line((2, 3 + 4 * line, size[0] - 3 - 3 * seed, 3 + 4 * line), fill="black", width=2)
    return image


def pdf(path: Path, pages: int) -> None:
    first, *rest = [page((60, 80), k) for k in range(pages)]
    first.save(path, save_all=True, append_images=rest, resolution=144)


def read(checkpoint: Path, *arguments: str, tokens: int = 6) -> int:
    return main([*arguments, "--checkpoint", str(checkpoint), "--output", OUTPUT, "--max-new-tokens", str(tokens)])


def written() -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(Path("out").iterdir())} if Path("out").exists() else {}
