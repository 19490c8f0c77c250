"""Parameters, active parameters and FLOPs by part are exact; views are those of the page; bad input is one sentence."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console
from small_ablation import write
from small_ocr import OCR

from encoders.views import Views
from mhc import Attention, CausalLanguageModel, FeedForward, Residual, build
from recipes.configuration import parse_yaml
from recipes.describe import main
from recipes.description.costs import Cost, Input, costs
from recipes.description.tables import page_table, sums

HOME = Path(__file__).parents[2]
FULL = str(HOME / "ablations" / "ocr2_full.yaml")


def described(capsys, *arguments: str) -> tuple[str, dict[str, list[int]]]:
    """What is printed, and the numbers of every row by its name."""
    assert main(list(arguments)) == 0
    told = capsys.readouterr().out
    rows = (re.match(r"\s*(\S.*?)\s{2,}([\d,. ]+)$", line) for line in told.splitlines())
    return told, {
        row[1]: [int(part.replace(",", "")) for part in row[2].split() if "." not in part] for row in rows if row
    }


@pytest.fixture(scope="module")
def small() -> torch.nn.Module:
    with torch.device("meta"):
        return build(parse_yaml(OCR)["model"]["init_args"]["network"])


def test_the_full_model(capsys):
    told, rows = described(capsys, "--config", FULL, "--page", "1700x2200")
    assert rows["tokenizer"][0] == 94_979_328
    assert rows["encoder"][0] == 357_898_112
    assert rows["decoder without head and topologies"][0] == 2_769_255_680
    assert rows["query bank"][:2] == [400 * 896, 896]
    assert rows["projector"][0] == 896 * 1280 + 1280
    assert rows["decoder: head"][0] == 129_280 * 1280
    topologies = 48 * (4 * 896 * 24 + 27) + 24 * (4 * 1280 * 24 + 27)  # phi, bias and three gates of each sublayer
    assert rows["all topologies"][0] == topologies
    assert rows["total"][0] == 3_389_119_360 + topologies
    # six of 64 experts of 3 x 1280 x 896, and a norm, in eleven blocks
    assert rows["decoder: routed experts"][1] == 11 * (6 * 3 * 1280 * 896 + 1280)
    assert "1,121" in told
    assert "6 crops in 2 x 3" in told
    assert "variants: mhc, hc, residual" in told
    assert "…" not in told


def test_views_of_a_page(capsys, small):
    console = Console(width=160)
    views = Views(global_size=64, crop_size=32, max_crops=6)
    for size, counts in {(20, 30): (1, 17), (64, 60): (5, 4 * 4 + 16 + 1), (300, 100): (4, 3 * 4 + 16 + 1)}.items():
        console.print(page_table(small, views, *size))
        assert re.search(rf"total\s+{counts[0]}\s+{counts[1]}\s", capsys.readouterr().out), size


def test_parameters_and_flops_by_hand(small):
    """Every part's products, 2 for a multiply-add; page of 16 + 1 visual tokens and no crops."""
    found = costs(small, Input(text=3, page=(20, 30), views=Views(global_size=64, crop_size=32)))
    assert sum(cost.parameters for cost in found.values()) == sum(p.numel() for p in small.parameters())
    length, width, vocabulary = 20, 16, 272
    assert found["projector"] == Cost(16 * 16 + 16, 16 * 16 + 16, 2 * 16 * 16 * 16)
    assert found["decoder: head"] == Cost(vocabulary * width, vocabulary * width, 2 * length * width * vocabulary)
    assert found["decoder: embedding"] == Cost(vocabulary * width, width, 0)
    attention = 2 * (4 * width**2 + width)  # with a norm, in two blocks
    products = 2 * (2 * length * 4 * width**2 + 2 * 2 * length**2 * width)
    assert found["decoder: attention"] == Cost(attention, attention, products)
    dense = 3 * 16 * width
    assert found["decoder: dense feed-forward"] == Cost(dense + width, dense + width, 2 * length * dense)
    assert found["decoder: router"] == Cost(4 * width, 4 * width, 2 * length * 4 * width)
    expert = 3 * 8 * width
    assert found["decoder: routed experts"] == Cost(4 * expert + width, 2 * expert + width, 2 * length * 2 * expert)
    assert found["decoder: shared experts"] == Cost(expert, expert, 2 * length * expert)
    assert found["query bank"] == Cost(20 * 16, 16, 0)
    m = 16
    encoder = 16 * (16 + 2 * 8) + (16 + 2 * 8) + 16 * 16 + 3 * 16 * 16 + 3 * 16
    assert found["encoder"].parameters == encoder
    linear = 2 * 2 * m * (16 * 32 + 16 * 16 + 3 * 16 * 16)
    # queries and keys, then values: the page among itself, and the queries to everything
    assert found["encoder"].flops == linear + 2 * 2 * (m * m + m * 2 * m) * 16


def test_topologies_are_parts_of_their_own():
    nodes = parse_yaml(OCR)["model"]["init_args"]["network"]
    topology = {"class_path": "mhc.ManifoldHyperConnection", "init_args": {"streams": 2}}
    for part in ("tokenizer", "encoder", "decoder"):
        nodes["init_args"][part]["init_args"]["topology"] = topology
    with torch.device("meta"):
        network, plain = build(nodes), build(parse_yaml(OCR)["model"]["init_args"]["network"])
    given = Input(text=3, page=(20, 30), views=Views(global_size=64, crop_size=32))
    found, without = costs(network, given), costs(plain, given)
    assert {part: cost for part, cost in found.items() if "topologies" not in part} == without
    one = 2 * 16 * 2 * (2 + 2) + 3 + 2 * (2 + 2)
    for part, sublayers in (("tokenizer", 2), ("encoder", 2), ("decoder", 4)):
        assert found[f"{part}: topologies"].parameters == sublayers * one
        assert found[f"{part}: topologies"].flops > 0
    assert sums(found)["all topologies"].parameters == 8 * one
    decoder = sum(p.numel() for p in plain.decoder.parameters()) - 272 * 16
    assert sums(found)["decoder without head and topologies"].parameters == decoder


def test_a_tied_language_model(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    told, rows = described(capsys, "--config", "small.yaml", "--variant", "mhc", "--text", "32")
    with torch.device("meta"):
        plain = CausalLanguageModel(
            256, 16, 1, topology=Residual, attention=partial(Attention, heads=2),
            feed_forward=partial(FeedForward, hidden=32),
        )  # fmt: skip
    topologies = rows["all topologies"][0]
    assert rows["total"][0] - topologies == sum(p.numel() for p in plain.parameters())
    assert rows["embedding and head"] == [256 * 16, 256 * 16, 2 * 32 * 256 * 16]
    assert "one sequence of 32 tokens" in told
    told, _ = described(capsys, "--config", "small.yaml", "--model.width", "32")
    assert "variant residual" in told  # the baseline
    assert "one sequence of 16 tokens" in told  # data.sequence_length


BAD = {
    (): ("--config",),
    ("--config", "none.yaml"): ("none.yaml: no such file",),
    ("--config", "small.yaml", "--variant", "mch"): ("--variant", "'mch'", "did you mean 'mhc'?", "residual, mhc"),
    ("--config", "small.yaml", "--page", "10x10"): ("--page", "reads no images"),
    ("--config", "small.yaml", "--page", "A4"): ("--page", "'A4'", "WIDTHxHEIGHT"),
    ("--config", "small.yaml", "--page", "0x10"): ("--page", "'0x10'"),
    ("--config", "small.yaml", "--text", "few"): ("--text", "'few'"),
    ("--config", "small.yaml", "--model.widht", "3"): ("small.yaml, variant residual", "widht", "'width'"),
    ("--config", "small.yaml", "--model.width", "15"): ("small.yaml", "model.init_args.attention", "width 15"),
    ("--config", "plain.yaml", "--variant", "mhc"): ("--variant", "plain.yaml", "no variants"),
    ("--config", "views.yaml", "--page", "100x90"): ("views.yaml", "no query bank", "32x32"),
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    (tmp_path / "plain.yaml").write_text(
        (tmp_path / "small.yaml").read_text().partition("model:\n")[2].join(["model:\n", ""])
    )
    (tmp_path / "views.yaml").write_text(OCR.replace("crop_size: 32", "crop_size: 48"))
    assert main(list(arguments)) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert told.startswith("error: ")
    assert all(word in told for word in BAD[arguments]), told


def test_help(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("--config", "--variant", "--page", "--text", "multiply-add"))
