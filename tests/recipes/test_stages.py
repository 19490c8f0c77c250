"""Three stages as configurations: what trains, at which rate, what the next one starts with."""

import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import randomise
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from small_ocr import OCR as TEXT
from small_ocr import module, moved, node, write_pages
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from encoders.ocr2 import OCR2
from encoders.views import Views
from mhc import build, describe
from recipes import fit
from recipes import read as reading
from recipes.callbacks import ModelFolder, PageSamples, RunRecord, checkpoint_defaults, run_record
from recipes.callbacks.page_samples import samples
from recipes.cli import CLI
from recipes.configuration import parse_yaml, to_yaml
from recipes.data import PageFolder
from recipes.loggers import MetricsFile
from recipes.modules import OCR
from recipes.modules.hand_off import Pretrained, StartFrom
from recipes.modules.parts import within
from recipes.schedules import WarmupCosine

HOME = Path(__file__).parents[2]
VISION = ("vision.tokenizer", "vision.encoder", "vision.queries")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    write_pages(folder)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(run_record, "environment", dict)
    monkeypatch.delattr(OCR, "budget")


def train(home, folder, made, steps, *callbacks, checkpoint=None, until=None) -> Trainer:
    seed_everything(1, verbose=False)
    data = PageFolder(
        path=str(home / "pages"),
        tokenizer=str(home / "tokenizer"),
        sequence_length=96,
        batch_size=2,
        prompt="<image>\nread",
        validation_fraction=0.3,
        validation_batches=1,
        views=Views(global_size=64, crop_size=32, max_crops=2),
    )
    every = ModelCheckpoint(**(checkpoint_defaults(folder) | {"every_n_train_steps": until or steps}))
    trainer = Trainer(
        max_steps=steps,
        default_root_dir=folder,
        accelerator="cpu",
        logger=[MetricsFile(str(folder)), TensorBoardLogger(folder, name="", version="")],
        callbacks=[RunRecord(), every, *callbacks],
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0 if until else None,
        use_distributed_sampler=False,
    )
    trainer.fit(made, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer


class Modes(Callback):
    """What is in training mode during a step."""

    def on_before_backward(self, trainer, pl_module, loss):
        self.training = {name for name, part in pl_module.network.named_modules() if part.training}


def state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture(scope="module")
def stages(home):
    """A light decoder of another width, then the model's own on the same vision side, then that decoder alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_record, "environment", dict)
        patch.delattr(OCR, "budget")
        light = node(decoder__width=8, decoder__depth=1)
        torch.manual_seed(0)
        first = module(randomise(build(light), 0.1))
        show = PageSamples(every_n_steps=2, pages=2, max_new_tokens=6)
        train(home, home / "one", first, 3, ModelFolder(), show)
        torch.manual_seed(5)
        second = module(
            randomise(build(node()), 0.1),
            frozen=["vision.tokenizer"],
            learning_rates={"vision.encoder": 5e-3, "vision": 2e-3},
            lr_scheduler=partial(WarmupCosine, warmup_steps=1, steps=4, floor=0.02),
            start_from=StartFrom(str(home / "one" / "model"), VISION),
        )
        modes = Modes()
        second.setup = partial(_after, second.setup, second, began := [])
        train(home, home / "two", second, 3, ModelFolder(), modes)
        third = module(
            build(node()), frozen=["vision"], start_from=StartFrom(str(home / "two" / "checkpoints" / "last.ckpt"))
        )
        train(home, home / "three", third, 2, ModelFolder())
    return {"one": first, "two": second, "three": third, "began": began[0], "modes": modes, "samples": show}


def _after(setup, made, began, stage):
    setup(stage)
    began.append(state(made.network))


def test_the_vision_side_is_handed_on_and_the_light_decoder_dropped(stages):
    one, began = stages["one"].network.state_dict(), stages["began"]
    given = {name for name in began if within(name, VISION)}
    assert len(given) > 20
    assert all(torch.equal(began[name], one[name]) for name in given)
    assert one["decoder.norm.weight"].shape == (8,)
    assert began["decoder.norm.weight"].shape == (16,)


def test_frozen_parts_do_not_move_and_all_others_do(stages):
    after = stages["two"].network.state_dict()
    still = set(after) - moved(stages["began"], after)
    assert still == {name for name in after if name.startswith("vision.tokenizer.")}
    before, after = stages["two"].network.state_dict(), stages["three"].network.state_dict()
    # an expert that no token goes to has no gradient, but AdamW decays it
    assert {name.partition(".")[0] for name in moved(before, after)} == {"decoder"}
    assert all(name.startswith("decoder.") == (name in moved(before, after)) for name in after)


def test_frozen_parts_stay_in_evaluation_mode_while_others_train(stages):
    training = stages["modes"].training
    assert {"", "decoder", "vision", "vision.encoder.trunk", "vision.projector"} <= training
    assert not any(name.startswith("vision.tokenizer") for name in training)


def test_frozen_parts_keep_no_graph(home):
    from test_ocr_module import batch

    one = batch()
    kept = {}
    for name, frozen in (("trained", []), ("frozen", ["vision"])):
        kept[name], made = 0, module(frozen=frozen)

        def count(tensor, name=name):
            kept[name] += 1
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            features = made.network.vision(one.images)
        assert features.requires_grad == (name == "trained")
    assert kept["trained"] > 50
    assert kept["frozen"] == 0
    assert {name.partition(".")[0] for name, p in made.network.named_parameters() if p.requires_grad} == {"decoder"}


def test_gradients_pass_through_a_frozen_part(home):
    """What stands before it still learns: a frozen decoder, a trained encoder."""
    from test_ocr_module import batch

    made, one = module(frozen=["decoder"]), batch()
    made(one.tokens, one.images).square().mean().backward()
    assert all(parameter.grad is None for parameter in made.network.decoder.parameters())
    assert float(made.network.vision.queries.banks["64"].grad.norm()) > 0


def test_rates_of_parts(stages, home):
    groups = stages["two"].configure_optimizers()["optimizer"].param_groups
    names = {id(parameter): name for name, parameter in stages["two"].network.named_parameters()}
    found = {}
    for group in groups:
        for parameter in group["params"]:
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = group["initial_lr"], group["weight_decay"]
    assert set(found) == {name for name in names.values() if not name.startswith("vision.tokenizer")}
    for name, (rate, _) in found.items():
        wanted = 5e-3 if name.startswith("vision.encoder.") else 2e-3 if name.startswith("vision.") else 1e-2
        assert rate == wanted, name
    assert found["vision.encoder.trunk.sublayers.1.up.weight"][1] == found["decoder.head.weight"][1] == 0.01
    assert found["vision.encoder.norm.weight"][1] == found["decoder.embedding.weight"][1] == 0.0
    with (home / "two" / "metrics.csv").open() as file:
        rows = {tuple(line.split(",")[:2]): float(line.split(",")[2]) for line in list(file)[1:]}
    # warm-up of one step, then the cosine: full, and a quarter of the way down to the floor
    quarter = 0.02 + 0.98 * 0.75
    for name, rate in (("", 1e-2), ("/vision.encoder", 5e-3), ("/vision", 2e-3)):
        assert rows["1", f"train/learning_rate{name}"] == pytest.approx(rate)
        assert rows["3", f"train/learning_rate{name}"] == pytest.approx(rate * quarter)


def test_the_folder_is_the_model_and_recipes_read_reads_it(stages, home, tmp_path):
    again = OCR2.from_pretrained(home / "three" / "model")
    assert describe(again) == describe(stages["three"].network)
    assert not moved(stages["three"].network.state_dict(), again.state_dict())
    page = str(home / "pages" / "page0.png")
    arguments = [
        page,
        "--checkpoint",
        str(home / "three" / "model"),
        "--output",
        str(tmp_path),
        "--max-new-tokens",
        "4",
    ]
    assert reading.main(arguments) == 0
    assert (tmp_path / "page0.md").exists()


def test_samples_are_what_the_model_reads(stages, home):
    show, made = stages["samples"], stages["one"]
    sample = show._samples[0]
    with torch.inference_mode():
        tokens = sample.prompt[None]
        for _ in range(6):
            tokens = torch.cat([tokens, made.eval()(tokens, sample.images)[:, -1:].argmax(-1)], 1)
    written = tokens[0, len(sample.prompt) :].tolist()
    written = written[: written.index(1)] if 1 in written else written
    from encoders.processor import OCR2Processor

    processor = OCR2Processor.from_pretrained(home / "one" / "model")
    read, truth = show.readings[0]
    assert read == processor.decode(written)
    assert truth in {path.read_text() for path in (home / "pages").glob("*.md")}
    events = EventAccumulator(str(home / "one"), {"images": 0, "tensors": 0}).Reload()
    assert [event.step for event in events.Images("page_samples/0")] == [2, 3]
    text = events.Tensors("page_samples/1/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert show.readings[1][1] in text


def test_a_sample_of_a_row_of_several_documents(home):
    """The first one alone, with its own image, whatever follows in the row."""
    from test_ocr_module import batch

    one = batch()
    network = module().network
    lengths = one.mask.sum(1).tolist()
    first, second = (one.tokens[row, :length] for row, length in enumerate(lengths))
    packed = one._replace(
        tokens=torch.cat([first, second])[None],
        labels=torch.cat([one.labels[0, : lengths[0]], one.labels[1, : lengths[1]]])[None],
        mask=torch.ones(1, sum(lengths), dtype=torch.bool),
        documents=torch.tensor([[0] * lengths[0] + [1] * lengths[1]]),
    )
    apart = list(samples(network, one))
    together = list(samples(network, packed))
    assert len(apart) == 2
    assert len(together) == 1
    assert torch.equal(together[0].prompt, one.tokens[0, :28])
    assert torch.equal(together[0].truth, apart[0].truth)
    assert torch.equal(together[0].images.pages, one.pages[:1])
    assert torch.equal(together[0].images.crops, one.crops)
    assert apart[1].images.crops is None
    assert torch.equal(apart[1].images.pages, one.pages[1:])


def test_a_stage_that_stopped_goes_on_as_if_it_had_not(stages, home):
    """Also where what it started from is gone."""
    shutil.copytree(home / "one" / "model", home / "source")

    def made(seed):
        torch.manual_seed(seed)
        return module(
            randomise(build(node()), 0.1),
            frozen=["vision.tokenizer"],
            learning_rates={"vision": 1e-3},
            start_from=StartFrom(str(home / "source"), VISION),
        )

    whole = made(3)
    train(home, home / "whole", whole, 4, until=2)
    train(home, home / "half", made(3), 2, until=2)
    shutil.rmtree(home / "source")
    again = made(9)
    train(home, home / "half", again, 4, until=2, checkpoint=home / "half" / "checkpoints" / "last.ckpt")
    # what is frozen and came from the source is in the checkpoint, too
    assert not moved(whole.network.state_dict(), again.network.state_dict())


def test_start_from_names_key_and_sizes(stages, home):
    wide = node(tokenizer__width=32, tokenizer__compressor=[32], encoder__width=32, queries__width=32)
    for source in ("one/model", "one/checkpoints/last.ckpt"):
        start = StartFrom(str(home / source), ("vision.encoder",))
        for device in ("cpu", "meta"):
            with torch.device(device):
                made = module(build(wide), start_from=start)
            with pytest.raises(ValueError, match=r"^model\.start_from: vision\.encoder\.\S+ is \[\d*16.*but \[\d*32"):
                made.check_sources()
    before = state(made.network) if device == "cpu" else None
    assert before is None
    other = module(build(node(encoder__heads=4, encoder__key_value_heads=2)), start_from=start)
    with pytest.raises(ValueError, match=r"sublayers\.0 has heads 2 in .*, but 4 in model\.network"):
        other.check_sources()
    deeper = module(build(node(encoder__depth=2)), start_from=start)
    with pytest.raises(ValueError, match=r"lacks vision\.encoder\.trunk\.sublayers\.2.*start_from\.fresh"):
        deeper.check_sources()
    streams = node(encoder__topology={"class_path": "mhc.HyperConnection", "init_args": {"streams": 2}})
    fresh = StartFrom(start.path, start.parts, ("*topologies*",))
    module(build(streams), start_from=fresh).check_sources()
    with pytest.raises(ValueError, match=r"model\.start_from: .*nowhere is not there: train"):
        module(start_from=StartFrom(str(home / "nowhere"))).check_sources()
    with pytest.raises(ValueError, match=r"model\.start_from: .*pages has no config\.json"):
        module(start_from=StartFrom(str(home / "pages"))).check_sources()
    with pytest.raises(ValueError, match=r"model\.start_from: .*page0\.png is no checkpoint of an OCR run"):
        module(start_from=StartFrom(str(home / "pages" / "page0.png"))).check_sources()


def test_another_width_ends_with_code_2_and_writes_nothing(stages, home, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(home)
    tree = parse_yaml(TEXT)
    tree["model"]["init_args"]["network"] = node(
        tokenizer__width=32, tokenizer__compressor=[32], encoder__width=32, queries__width=32
    )
    tree["model"]["init_args"]["start_from"] = {"path": "one/model", "parts": list(VISION)}
    (tmp_path / "stage2.yaml").write_text(to_yaml(tree))
    out = tmp_path / "out"
    assert fit.main(["--config", str(tmp_path / "stage2.yaml"), "--ablation.output", str(out)]) == 2
    told = capsys.readouterr().err
    assert "model.start_from: vision.tokenizer." in told
    assert re.search(r" is \[[\d, ]*16\] in one/model, but \[[\d, ]*32\] in model\.network", told)
    assert told.count("\n") == 1
    assert not out.exists()


def test_pretrained_sources(stages, home):
    """Parts by the names of their own models, as far as the loaders know them: here, a whole OCR 2."""
    source = Pretrained(str(home / "three" / "model"))
    made = module(pretrained={"tokenizer": source, "encoder": source, "decoder": source}, frozen=["vision"])
    made.check_sources()
    train(home, home / "pretrained", made, 1)
    wanted = stages["three"].network.state_dict()
    for name, tensor in made.network.state_dict().items():
        if name.startswith(("vision.tokenizer.", "vision.encoder.")):
            assert torch.equal(tensor, wanted[name])
    with pytest.raises(ValueError, match=r"pretrained has 'queries', but there are sources for tokenizer, encoder"):
        module(pretrained={"queries": source})
    with pytest.raises(ValueError, match=r"^model\.pretrained\.decoder: .*nowhere"):
        module(pretrained={"decoder": Pretrained("nowhere")}).check_sources()
    patches = {"class_path": "encoders.PatchTokenizer", "init_args": {"width": 16, "patch": 16}}
    with pytest.raises(ValueError, match=r"pretrained\.tokenizer is for a SAMTokenizer, and .* PatchTokenizer"):
        module(build(node(tokenizer=patches)), pretrained={"tokenizer": source})


def test_the_command_line_keeps_hyperparameters_plain(stages, home, monkeypatch):
    """A checkpoint of a stage is loaded without what the stage started from."""
    monkeypatch.chdir(home)
    tree = parse_yaml(TEXT)
    tree["model"]["init_args"] |= {
        "frozen": ["vision.tokenizer"],
        "learning_rates": {"vision": 1e-3},
        "start_from": {"path": str(home / "one" / "model"), "parts": list(VISION)},
        "pretrained": {"encoder": {"path": str(home / "three" / "model")}},
    }
    tree["trainer"] |= {"default_root_dir": str(home / "line"), "max_steps": 1}
    cli = CLI(tree)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    moved_on = home / "line" / "checkpoints" / "last.ckpt"
    content = torch.load(moved_on, weights_only=True)
    assert content["hyper_parameters"]["frozen"] == ["vision.tokenizer"]
    assert content["hyper_parameters"]["start_from"]["parts"] == list(VISION)
    again = OCR.load_from_checkpoint(moved_on, weights_only=True)
    assert again.start_from == StartFrom(str(home / "one" / "model"), VISION)
    assert not moved(cli.model.network.state_dict(), again.network.state_dict())
    assert not again.network.vision.tokenizer.training
