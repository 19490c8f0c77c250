"""A tiny OCR 2 as a configuration, and a folder of pages for it."""

from functools import partial
from pathlib import Path

import torch
from helpers import randomise
from PIL import Image, ImageDraw
from tiny_tokenizer import tiny_tokenizer

from mhc import build
from recipes import modules
from recipes.configuration import parse_yaml, place

OCR = """\
model:
  class_path: recipes.modules.OCR
  init_args:
    network:
      class_path: encoders.ocr2.OCR2
      init_args:
        tokenizer:
          class_path: encoders.sam.SAMTokenizer
          init_args:
            {width: 16, depth: 1, heads: 2, hidden: 16, window: 4, global_blocks: [0], image_size: 64, patch: 8,
             neck: 8, compressor: [16]}
        encoder:
          class_path: encoders.causal_flow.CausalFlowEncoder
          init_args: {width: 16, depth: 1, heads: 2, key_value_heads: 1, hidden: 16}
        queries:
          class_path: encoders.query_bank.QueryBank
          init_args: {width: 16, counts: {64: 16, 32: 4}, stride: 16}
        decoder:
          class_path: mhc.CausalLanguageModel
          init_args:
            vocabulary_size: 272
            width: 16
            depth: 2
            topology: {class_path: mhc.Residual}
            attention: {class_path: mhc.Attention, init_args: {heads: 2}}
            dense_feed_forward: {class_path: mhc.SwiGLU, init_args: {hidden: 16}}
            dense_blocks: 1
            feed_forward:
              class_path: mhc.mixture_of_experts.MixtureOfExperts
              init_args: {experts: 4, chosen: 2, hidden: 8, shared: 1}
            tied: false
        image_token: 259
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1e-3, weight_decay: 0.1}}
data:
  class_path: recipes.data.PageFolder
  init_args:
    path: pages
    tokenizer: tokenizer
    prompt: "<image>\\nread"
    sequence_length: 128
    batch_size: 2
    validation_fraction: 0.3
    validation_batches: 1
    views: {global_size: 64, crop_size: 32, max_crops: 2}
signal_gain: {every_n_steps: 1, figures: false}
trainer:
  max_epochs: 1
  max_steps: -1
  limit_train_batches: 1
  accelerator: cpu
  enable_progress_bar: false
  log_every_n_steps: 1
"""


def write_pages(folder: Path, count: int = 7) -> None:
    """Put `count` small pages and a tokenizer into pages/ and tokenizer/ of the folder."""
    (folder / "pages").mkdir(parents=True)
    (folder / "tokenizer").mkdir()
    tiny_tokenizer().save(str(folder / "tokenizer" / "tokenizer.json"))
    for number in range(count):
        # every third one is too small for crops
        size = (24, 30) if number % 3 == 2 else (40 + 8 * number, 60)
        page = Image.new("RGB", size, "white")
        ImageDraw.Draw(page).text((2, 2 + number), f"page {number}", fill="black")
        page.save(folder / "pages" / f"page{number}.png")
        (folder / "pages" / f"page{number}.md").write_text(f"# page {number}\n" + "x" * number)


def node(**changes):
    found = parse_yaml(OCR)["model"]["init_args"]["network"]
    for path, value in changes.items():
        place(found, path.replace("__", "."), value)
    return found


def module(network=None, **changes) -> modules.OCR:
    """The small model; its weights come from the seed."""
    if network is None:
        torch.manual_seed(0)
        network = randomise(build(node()), 0.1)
    return modules.OCR(**({"network": network, "optimizer": partial(torch.optim.AdamW, lr=1e-2)} | changes))


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}
