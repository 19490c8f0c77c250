"""Encoder, tokenizer, topology, query count and query bank are swapped by nodes of the YAML file alone."""

import warnings
from pathlib import Path

import pytest
import torch
from helpers import randomise
from small_ocr import OCR, write_pages

from recipes.cli import CLI
from recipes.configuration import parse_yaml, place

NETWORK = "model.network"
SHAPE = "width: 16, heads: 2, hidden: 16"
RESIDUAL = "{class_path: mhc.Residual}"
HC = "{class_path: mhc.HyperConnection, init_args: {streams: 2}}"
MHC = "{class_path: mhc.ManifoldHyperConnection, init_args: {streams: 2, sinkhorn_steps: 4}}"
NO_QUERIES = {"queries": "null"}

SWAPS = {
    "encoder: CLIP": {
        "encoder": f"{{class_path: encoders.clip.CLIPEncoder, init_args: {{{SHAPE}, depth: 1, grid: 2}}}}"
    },
    "encoder: CLIP without queries": {
        "encoder": f"{{class_path: encoders.clip.CLIPEncoder, init_args: {{{SHAPE}, depth: 1, append_visual: true}}}}",
        **NO_QUERIES,
    },
    "encoder: mBART": {
        "encoder": "{class_path: encoders.mbart.MBARTEncoder, init_args: "
        f"{{{SHAPE}, encoder_depth: 1, decoder_depth: 1, max_positions: 32}}}}"
    },
    "encoder: Q-Former": {
        "encoder": f"{{class_path: encoders.qformer.QFormerEncoder, init_args: {{{SHAPE}, depth: 1}}}}"
    },
    "encoder: none": {"encoder": "{class_path: encoders.raster.RasterEncoder, init_args: {width: 16}}", **NO_QUERIES},
    "tokenizer: patches": {
        "tokenizer": "{class_path: encoders.patch.PatchTokenizer, init_args: {width: 16, patch: 16, positions: 4}}"
    },
    "queries: m / 4": {"queries.counts": "{64: 4, 32: 1}"},
    "queries: m": {"queries.counts": "{64: null, 32: null}"},
    "queries: 2 m": {"queries.counts": "{64: 32, 32: 8}"},
    "queries: fixed": {"queries.class_path": "encoders.query_bank.FixedQueryBank"},
    "queries: interpolated": {
        "queries": "{class_path: encoders.query_bank.InterpolatedQueryBank, "
        "init_args: {width: 16, counts: {64: 16, 32: 4}, base: 64, stride: 16}}"
    },
    "topology: HC, mHC, residual": {"tokenizer.topology": HC, "encoder.topology": MHC, "decoder.topology": RESIDUAL},
    "topology: mHC, residual, HC": {"tokenizer.topology": MHC, "encoder.topology": RESIDUAL, "decoder.topology": HC},
    "topology: residual, HC, mHC": {"tokenizer.topology": RESIDUAL, "encoder.topology": HC, "decoder.topology": MHC},
}
# features of a page of 64 pixels and of a crop of 32, where they are not m = 16 and 4
COUNTS = {"queries: m / 4": (4, 1), "queries: 2 m": (32, 8)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("swaps")
    write_pages(place)
    return place


@pytest.mark.parametrize("name", SWAPS)
def test_swap(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    tree = parse_yaml(OCR)
    for path, node in SWAPS[name].items():
        place(tree, f"{NETWORK}.{path}", parse_yaml(node))
    cli = CLI(tree, build=False)
    made = cli.parser.instantiate(cli.config)
    model, data = made.model, made.data
    count = model.network.vision.tokens_per_view
    data.page_tokens, data.crop_tokens = count(64, 64), count(32, 32)
    assert (data.page_tokens, data.crop_tokens) == COUNTS.get(name, (16, 4))
    for path, node in SWAPS[name].items():
        assert_there(model.network, path, parse_yaml(node))

    batch = next(iter(data.train_dataloader()))
    randomise(model, 0.05)  # gates start at zero and hide what is behind them
    optimizer = model.configure_optimizers()
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*self.log.*")
        loss = model.training_step(batch, 0)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    idle = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert idle == []
    assert not [key for key, value in model.named_parameters() if torch.equal(value, before[key])]


def assert_there(network: torch.nn.Module, path: str, node) -> None:
    """The part that a node names is of the class that it names."""
    part, _, rest = path.partition(".")
    owner = network.decoder if part == "decoder" else getattr(network.vision, part)
    if rest == "topology":
        owner = owner.trunk.topologies[0]
    wanted = node if isinstance(node, str) else node and node.get("class_path")
    if wanted is None and rest != "counts":
        assert owner is None
    elif wanted is not None:
        assert type(owner).__name__ == wanted.rpartition(".")[2]
