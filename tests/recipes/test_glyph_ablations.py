"""The ablations on pages of glyphs: every variant takes a step, sizes are matched, and the miniature learns to read."""

from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from encoders import CausalFlowEncoder, PatchTokenizer, QueryBank
from encoders.checkpoint import save_weights
from mhc import Attention, CausalLanguageModel, Residual, SwiGLU, build
from recipes.ablation import grid
from recipes.ablation.schema import Ablation
from recipes.configuration import Tree, read
from recipes.data import glyph_text, glyphs
from recipes.data.glyph_pages import GlyphPages
from recipes.data.page_batch import PageBatch
from recipes.modules.hand_off import Pretrained, load_pretrained
from recipes.modules.miniature import Miniature

HOME = Path(__file__).parents[2]
NAMES = ("encoders_rates", "encoders", "query_counts", "query_attention", "encoder_init", "topology_x_encoder")
NAMES += ("compression",)


def variants(name: str) -> list[tuple[grid.Variant, Tree]]:
    source = read(HOME / "ablations" / f"{name}.yaml")
    base = {key: node for key, node in source.tree.items() if key != "ablation"}
    return [(variant, variant.apply(base)) for variant in grid.variants(Ablation.read(source), source)]


def pages_of(tree: Tree, network: Miniature, folder: Path) -> GlyphPages:
    options = tree["data"]["init_args"]
    task = dict(options["task"])
    kind = getattr(glyphs, task["class_path"].rpartition(".")[2], None)
    arguments = dict(task["init_args"])
    if kind is None:
        kind = getattr(glyph_text, task["class_path"].rpartition(".")[2])
        if kind is not glyph_text.RandomLetters:
            arguments["path"] = str(folder / "text.txt")
    data = GlyphPages(kind(**arguments), glyph=options["glyph"], batch_size=2)
    side = data.views.global_size
    data.page_tokens = network.vision.tokens_per_view(side, side)
    assert network.decoder.vocabulary_size == data.vocabulary_size
    return data


def loss_of(network: Miniature, batch: PageBatch) -> tuple[torch.Tensor, float]:
    logits, asked = network(batch.tokens, batch.images), batch.labels >= 0
    right = (logits.argmax(-1) == batch.labels)[asked].float().mean()
    return F.cross_entropy(logits[asked], batch.labels[asked]), float(right)


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_takes_a_step(name, tmp_path):
    (tmp_path / "text.txt").write_text("what is read and what is known beforehand are two things " * 60)
    stepped: list[Tree] = []
    for variant, tree in variants(name):
        node = tree["model"]["init_args"]["network"]
        if (node, tree["data"]) in stepped:
            continue  # a rate is no other network
        stepped.append((node, tree["data"]))
        torch.manual_seed(0)
        network = build(node)
        assert type(network) is Miniature
        batch = pages_of(tree, network, tmp_path).probe_batch(2)
        loss, _ = loss_of(network, batch)
        loss.backward()
        assert torch.isfinite(loss), variant.name
        lacking = [key for key, value in network.named_parameters() if value.requires_grad and value.grad is None]
        assert lacking == [], variant.name


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_within_two_per_cent(name):
    """Before any matching, which moves a topology's parameters and, without an encoder, gives its to the decoder."""
    sizes = set()
    for variant, tree in variants(name):
        if variant.axes.get("encoder") != "none" and variant.axes.get("topology") in (None, "residual"):
            with torch.device("meta"):
                network = build(tree["model"]["init_args"]["network"])
            sizes.add(sum(parameter.numel() for parameter in network.parameters()))
    assert max(sizes) < 1.02 * min(sizes)


def test_the_budget_is_one_for_all():
    """The same pages, steps and schedule in every variant, and one rate each in `encoders`."""
    for name in NAMES:
        found = [tree for _, tree in variants(name)]
        for tree in found:
            steps = tree["trainer"]["max_steps"]
            assert tree["model"]["init_args"]["lr_scheduler"]["init_args"]["steps"] == steps
            assert tree["trainer"]["gradient_clip_val"] == 1.0
            assert tree["data"]["init_args"]["growth"]["init_args"]["steps"] < steps / 2
        assert len({str(tree["data"]["init_args"]["growth"]) for tree in found}) == 1
    one, other = (variants(name)[0][1] for name in ("encoders", "encoders_rates"))
    assert one["data"] == other["data"]
    assert {**one["trainer"], "callbacks": None} == {**other["trainer"], "callbacks": None}


def test_each_encoder_has_the_rate_that_was_its_best():
    """The rates of `encoders` are those of the lowest validation losses in the committed sweep."""
    swept = pd.read_csv(HOME / "results" / "encoders_rates" / "summary.csv")
    best = swept.loc[swept.groupby("encoder").val_loss.idxmin()].set_index("encoder").rate
    rates = {
        variant.axes["encoder"]: tree["model"]["init_args"]["optimizer"]["init_args"]["lr"]
        for variant, tree in variants("encoders")
    }
    assert rates == {encoder: float(rate.removeprefix("r")) for encoder, rate in best.items()}


def small() -> Miniature:
    torch.manual_seed(0)
    return Miniature(
        tokenizer=PatchTokenizer(width=32, patch=6, positions=2),
        encoder=CausalFlowEncoder(width=32, depth=1, heads=4, key_value_heads=4, hidden=64),
        queries=QueryBank(width=32, counts={12: 4}, std=0.5),
        decoder=CausalLanguageModel(
            13, 32, 1, topology=Residual, attention=partial(Attention, heads=4), feed_forward=partial(SwiGLU, hidden=64)
        ),
    )


def test_starts_wide():
    network = small()
    assert 0.09 < network.vision.encoder.trunk.sublayers[0].query_key_value.weight.std() < 0.11
    assert 0.4 < network.vision.tokenizer.positions.std() < 0.6
    assert 0.01 < network.decoder.embedding.weight.std() < 0.03
    for name in ("std", "positions_std"):
        parts = {"tokenizer": network.vision.tokenizer, "encoder": network.vision.encoder, "decoder": network.decoder}
        with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
            Miniature(**parts, queries=network.vision.queries, **{name: 0.0})


def test_a_causal_flow_learns_to_read():
    """300 steps take it past 90 % of the held-out tokens: three digits in random cells of four, and the end.

    The end alone would be a quarter, and three guessed digits a tenth each.
    """
    network = small()
    data = GlyphPages(glyphs.ScatteredDigits(rows=2, digits=3), glyph=6, batch_size=32, page_tokens=4)
    held = data.probe_batch(256)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    for step, batch in zip(range(300), data.train_dataloader(), strict=False):
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1, (step + 1) / 50)
        loss, _ = loss_of(network, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        loss, accuracy = loss_of(network, held)
    assert accuracy > 0.9
    assert loss < 0.3 * data.prior_loss()


def test_a_language_model_fits_encoder_and_decoder(tmp_path):
    """What encoder_init_source.yaml leaves behind goes into every part that encoder_init.yaml starts from it."""
    source = dict(read(HOME / "ablations" / "encoder_init_source.yaml").tree["model"]["init_args"])
    for key in ("optimizer", "lr_scheduler"):
        del source[key]
    torch.manual_seed(1)
    model = build({"class_path": "mhc.CausalLanguageModel", "init_args": source})
    save_weights(model, tmp_path)
    for variant, tree in variants("encoder_init"):
        options = tree["model"]["init_args"]
        network = build(options["network"])
        before = [part.trunk.sublayers[0].output.weight.clone() for part in (network.vision.encoder, network.decoder)]
        given = options["pretrained"] or {}
        sources = {part: Pretrained(str(tmp_path), tuple(node.get("fresh", ()))) for part, node in given.items()}
        load_pretrained(network, sources)
        parts = {"encoder": network.vision.encoder, "decoder": network.decoder}
        for (name, part), old in zip(parts.items(), before, strict=True):
            for ours, theirs in zip(part.trunk.parameters(), model.trunk.parameters(), strict=True):
                assert torch.equal(ours, theirs) == (name in given) or ours.dim() == 1, (variant.name, name)
            assert torch.equal(part.trunk.sublayers[0].output.weight, old) == (name not in given)
