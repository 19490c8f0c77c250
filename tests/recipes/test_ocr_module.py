"""The Lightning module of the whole model: loss, metrics, budget, optimizer, checkpoint, errors."""

import csv
import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers import randomise
from small_ocr import OCR as TEXT
from small_ocr import write_pages
from torch.utils.flop_counter import FlopCounterMode

from encoders.views import ImageBatch, Views
from mhc import Context, build, describe
from mhc.routing import load_balancing_loss
from recipes.budget import FlopCounter
from recipes.callbacks import run_record
from recipes.cli import CLI
from recipes.configuration import parse_yaml
from recipes.data.page_batch import PageBatch
from recipes.modules import OCR

VIEWS = Views(global_size=64, crop_size=32, max_crops=2)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return randomise(build(parse_yaml(TEXT)["model"]["init_args"]["network"]), 0.1)


def module(network, **changes) -> OCR:
    return OCR(**({"network": network, "optimizer": partial(torch.optim.AdamW, lr=1e-3)} | changes))


def batch(seed: int = 0) -> PageBatch:
    """Two rows: a page with two crops, and one without, shorter."""
    torch.manual_seed(seed)
    rows = [
        ([0, *[259] * 25, *range(30, 42), 1], 28),
        ([0, *[259] * 17, *range(50, 58), 1], 20),
    ]
    images = ImageBatch(torch.randn(2, 3, 64, 64), torch.randn(2, 3, 32, 32), (2, 0))
    return PageBatch.collate(rows, images, 2)


def test_collate_shifts_and_pads():
    tokens, labels, mask, *_ = PageBatch.collate([([5, 6, 7, 8], 2), ([5, 6, 9], 2)], None, 2)
    assert tokens.tolist() == [[5, 6, 7, 8], [5, 6, 9, 2]]
    assert labels.tolist() == [[-100, 7, 8, -100], [-100, 9, -100, -100]]
    assert mask.tolist() == [[True] * 4, [True] * 3 + [False]]


@pytest.mark.filterwarnings("ignore:.*self.log.*")
@pytest.mark.parametrize("pages", [0, 1], ids=["text alone", "a page without crops"])
def test_processes_that_share_weights_run_the_same_modules(network, pages, monkeypatch):
    rows = [([0, *[259] * 17 * pages, *range(50, 58), 1], 1 + 17 * pages)]
    one = PageBatch.collate(rows, ImageBatch(torch.randn(1, 3, 64, 64), None, (0,)) if pages else None, 2)
    found = module(build(describe(network)))

    def lacking(processes: int) -> set[str]:
        trainer = SimpleNamespace(world_size=processes, datamodule=SimpleNamespace(views=VIEWS), global_step=1)
        monkeypatch.setattr(found, "_trainer", trainer)
        found.zero_grad()
        F.cross_entropy(found._read(one).flatten(0, 1), one.labels.flatten()).backward()
        return {name for name, parameter in found.network.named_parameters() if parameter.grad is None}

    # a batch of one process skips what it does not need
    assert any("queries" in name for name in lacking(1))
    assert not lacking(2)


@pytest.mark.filterwarnings("ignore:.*self.log.*")
def test_loss_is_cross_entropy_and_balance(network):
    one, routings = batch(), []
    logits = network(one.tokens, one.images, Context(routings=routings))
    asked = one.labels >= 0
    entropy = F.cross_entropy(logits[asked], one.labels[asked])
    assert len(routings) == 1
    balance = load_balancing_loss(routings[0], mask=one.mask)
    for weight in (0.0, 0.5):
        loss = module(network, load_balancing=weight).training_step(one, 0)
        assert torch.allclose(loss, entropy + weight * balance, atol=1e-6)
    assert balance > 0.9


@pytest.mark.filterwarnings("ignore:.*self.log.*")
def test_padding_changes_nothing(network):
    """Rows padded on the right need no mask in attention: alone, each has the same logits."""
    both = batch()
    together = network(both.tokens, both.images)
    alone = network(both.tokens[1:, :27], ImageBatch(both.pages[1:], None, (0,)))
    assert torch.allclose(together[1:, :27], alone, atol=1e-5)
    loss = module(network).training_step(both, 0)
    longer = both._replace(
        tokens=F.pad(both.tokens, (0, 5), value=2),
        labels=F.pad(both.labels, (0, 5), value=-100),
        mask=F.pad(both.mask, (0, 5)),
    )
    assert torch.allclose(module(network).training_step(longer, 0), loss, atol=1e-6)


MBART = {
    "class_path": "encoders.mbart.MBARTEncoder",
    "init_args": {"width": 16, "heads": 2, "hidden": 16, "encoder_depth": 1, "decoder_depth": 1, "max_positions": 32},
}


@pytest.mark.parametrize(
    ("watched", "sublayers", "tokens"),
    [
        ("decoder.trunk", 4, (2, 39)),
        ("vision.tokenizer.trunk", 2, (2, 64)),
        ("vision.encoder.encoder", 2, (2, 16)),
        ("vision.encoder.decoder", 3, (2, 16)),
    ],
)
def test_probe_looks_into_the_watched_trunk(watched, sublayers, tokens):
    """Of the pages alone: the crops go through the same trunks, and gains of two passes must not be multiplied."""
    node = parse_yaml(TEXT)["model"]["init_args"]["network"]
    node["init_args"]["encoder"] = MBART
    other, one, seen = randomise(build(node), 0.1), batch(), []
    made = module(other, watched=watched)

    def look(index, topology, state, carry):
        seen.append((index, topology, state.flatten(1, -2).shape[:2]))

    logits = made.probe(one, look)
    assert made.trunk is other.get_submodule(watched)
    assert [(index, topology) for index, topology, _ in seen] == list(enumerate(made.trunk.topologies))[:sublayers]
    assert len(seen) == sublayers
    assert {shape for *_, shape in seen} == {tokens}
    assert torch.equal(logits, other(one.tokens, one.images))
    made(one.tokens, one.images)
    assert len(seen) == sublayers


def test_watched_is_a_trunk(network):
    with pytest.raises(ValueError, match=r"watched must be a trunk of the network, .*decoder\.trunk, got 'decoder'"):
        module(network, watched="decoder")


def test_accuracy_is_over_all_tokens(network):
    """Over two batches, one with many tokens and one with few, as Lightning averages them."""
    both = batch()
    parts = [both, both._replace(labels=F.pad(both.labels[:, :-5], (0, 5), value=-100))]
    made, asked, right = module(network), 0, 0
    logged = []
    made.log_dict = lambda found, batch_size, **_: logged.append((found["val/accuracy"], batch_size))
    for part in parts:
        logits = network(part.tokens, part.images)
        # some of them right
        labels = torch.where(torch.arange(part.labels.shape[1]) % 3 == 0, logits.argmax(-1), part.labels)
        labels = torch.where(part.labels < 0, -100, labels)
        made.validation_step(part._replace(labels=labels), 0)
        asked += int((labels >= 0).sum())
        right += int((logits.argmax(-1) == labels).sum())
    assert 0 < right < asked == sum(size for _, size in logged)
    assert sum(float(share) * size for share, size in logged) == pytest.approx(right)


def test_accuracy_where_the_order_decides(network):
    made, logged, one = module(network), {}, batch()
    made.log_dict = lambda *_, **__: None
    made.log = lambda name, value, batch_size, **_: logged.update({name: (float(value), batch_size)})
    made.validation_step(one, 0)
    assert not logged
    places = (one.labels >= 0).nonzero()[::4]
    deciding = torch.zeros_like(one.mask)
    deciding[places[:, 0], places[:, 1]] = True
    labels = one.labels.clone()
    chosen = network(one.tokens, one.images).argmax(-1)
    row, column = places[0].tolist()
    labels[deciding] = (chosen[deciding] + 1) % 272
    labels[row, column] = chosen[row, column]
    made.validation_step(one._replace(labels=labels, deciding=deciding), 0)
    assert logged == {"val/order_accuracy": (pytest.approx(1 / len(places)), len(places))}


def test_budget_leaves_model_and_random_state_alone(network):
    before = torch.get_rng_state()
    budget = module(network).budget(128, VIEWS)
    assert torch.equal(before, torch.get_rng_state())
    assert budget.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert next(network.parameters()).device.type == "cpu"
    assert module(network).budget(128, VIEWS) == budget
    pages_alone = Views(global_size=64, crop_size=32, max_crops=0)
    assert module(network).budget(128, pages_alone).flops_per_token < budget.flops_per_token


def test_flops_are_those_of_torch(network):
    """Forward and backward of the decoder, which torch's own counter can run."""
    tokens = torch.arange(24).view(2, 12)
    totals = []
    for counter in (FlopCounter(), FlopCounterMode(display=False)):
        with counter:
            F.cross_entropy(network.decoder(tokens).flatten(0, 1), tokens.flatten()).backward()
        totals.append(counter.total if isinstance(counter, FlopCounter) else counter.get_total_flops())
    assert totals[0] == totals[1] > 0


def test_negative_weight(network):
    with pytest.raises(ValueError, match="load_balancing must not be negative"):
        module(network, load_balancing=-1.0)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A run of two steps through the command line, in a folder of its own."""
    folder = tmp_path_factory.mktemp("fitted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(run_record, "environment", dict)
        write_pages(folder)
        tree = parse_yaml(TEXT)
        tree["trainer"] |= {"limit_train_batches": 2, "default_root_dir": str(folder / "run")}
        cli = CLI(tree)
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        cli.trainer.save_checkpoint(folder / "last.ckpt")
    return folder, cli


def test_metrics_are_there_once_a_step(fitted):
    folder, cli = fitted
    with (folder / "run" / "metrics.csv").open() as file:
        found = [(int(row["step"]), row["metric"], float(row["value"])) for row in csv.DictReader(file)]
    values = {(step, name): value for step, name, value in found}
    assert len(values) == len(found)
    for step in (1, 2):
        entropy, balance = values[step, "train/cross_entropy"], values[step, "train/load_balancing"]
        assert values[step, "train/loss"] == pytest.approx(entropy + 0.001 * balance, abs=1e-5)
        assert values[step, "router/dropped"] == 0.0
        assert values[step, "router/largest_load"] >= 1.0
        assert values[step, "router/sublayer_03/largest_load"] == values[step, "router/largest_load"]
    assert {(2, "val/loss"), (2, "val/accuracy")} <= set(values)
    status = json.loads((folder / "run" / "status.json").read_text())
    assert (status["val_loss"], status["val_accuracy"]) == (values[2, "val/loss"], values[2, "val/accuracy"])
    assert cli.trainer.global_step == 2


def test_checkpoint_of_the_command_line_builds_the_model_again(fitted, monkeypatch):
    folder, cli = fitted
    again = OCR.load_from_checkpoint(folder / "last.ckpt", weights_only=True)
    one = batch()
    assert describe(again.network) == describe(cli.model.network)
    assert torch.equal(again(one.tokens, one.images), cli.model(one.tokens, one.images))


def test_hyperparameters_hold_no_weights(network):
    made = module(network)
    assert not any(isinstance(value, torch.nn.Module) for value in made.hparams.values())
    assert torch.equal(build(made.hparams["network"]).decoder.norm.weight.detach(), torch.ones(16))


def test_weight_decay_is_the_optimizers_own(fitted):
    decaying, others = fitted[1].model.configure_optimizers().param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    network = fitted[1].model.network
    assert any(parameter is network.decoder.embedding.weight for parameter in others["params"])
    assert any(parameter is network.vision.encoder.trunk.sublayers[1].up.weight for parameter in decaying["params"])


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("image_token", 7, r"model\.network\.image_token is 7, but it is 259 in data\.tokenizer"),
        ("vocabulary_size", 260, r"vocabulary_size is 260, but data\.tokenizer has 271 tokens"),
    ],
)
def test_tokens_of_the_data(fitted, path, value, words):
    _, cli = fitted
    node = parse_yaml(TEXT)["model"]["init_args"]["network"]
    (node["init_args"] if path == "image_token" else node["init_args"]["decoder"]["init_args"])[path] = value
    other = module(build(node))
    other._trainer = cli.trainer
    with pytest.raises(ValueError, match=words):
        other.setup("fit")
