"""The benchmark runs its whole path on tiny sizes, writes what it found, and says what it cannot measure."""

import csv
import math
from functools import partial

import pytest
import torch

from encoders import bench
from encoders.benchmark import attention, full_models, full_step, training_step
from encoders.benchmark.rounds import CannotMeasure, Settings, Spread, alternate, ratio
from encoders.benchmark.timeline import Timeline
from encoders.views import Views

RESIDUAL = {"class_path": "mhc.Residual"}


def node(tokenizer, encoder, queries, decoder):
    """An OCR2 of width 16: parts as (class path, more arguments), and what the decoder's arguments are besides."""
    named = {"tokenizer": tokenizer, "encoder": encoder, "queries": queries}
    parts = {name: {"class_path": path, "init_args": {"width": 16, **more}} for name, (path, more) in named.items()}
    language = {"vocabulary_size": 40, "width": 16, "depth": 1, "topology": RESIDUAL, **decoder}
    parts["decoder"] = {"class_path": "mhc.CausalLanguageModel", "init_args": language}
    return {"class_path": "encoders.ocr2.OCR2", "init_args": parts | {"image_token": 39}}


FLOW = {"depth": 1, "heads": 2, "key_value_heads": 1, "hidden": 16}
MHC = {"class_path": "mhc.ManifoldHyperConnection", "init_args": {"streams": 2}}
NODE = node(
    ("encoders.patch.PatchTokenizer", {"patch": 16}),
    ("encoders.causal_flow.CausalFlowEncoder", FLOW | {"topology": MHC}),
    ("encoders.query_bank.QueryBank", {"counts": {64: None, 32: None}, "stride": 16}),
    {
        "attention": {"class_path": "mhc.Attention", "init_args": {"heads": 2}},
        "feed_forward": {"class_path": "mhc.SwiGLU", "init_args": {"hidden": 16}},
        "recompute": "auto",
    },
)
SAM = {
    "depth": 2, "heads": 2, "hidden": 32, "window": 14, "global_blocks": [0], "image_size": 1024, "patch": 16,
    "neck": 8, "compressor": [8, 16],
}  # fmt: skip
EXPERTS = {"experts": 4, "chosen": 2, "hidden": 8, "shared": 1}
# parts that transformers has, too
RELEASED = node(
    ("encoders.sam.SAMTokenizer", SAM),
    ("encoders.causal_flow.CausalFlowEncoder", FLOW),
    ("encoders.query_bank.QueryBank", {"counts": {1024: 256, 768: 144}}),
    {
        "attention": {"class_path": "mhc.Attention", "init_args": {"heads": 2, "rotary_base": 1e4}},
        "feed_forward": {"class_path": "mhc.MixtureOfExperts", "init_args": EXPERTS},
        "tied": False,
    },
)


@pytest.fixture
def small(monkeypatch) -> Settings:
    """Two pages of 64 pixels, with crops of 32."""
    monkeypatch.setattr(full_step, "Views", partial(Views, global_size=64, crop_size=32, max_crops=2))
    return Settings("cpu", rounds=3, seconds=1, pages=2, sequence=48)


@pytest.fixture
def uncounted(monkeypatch) -> None:
    """Rates of nothing, which are there at once."""
    monkeypatch.setattr(full_step, "step_flops", lambda *_: 1.0)
    monkeypatch.setattr(full_step.Clock, "matmul_rate", lambda clock: 1.0)


def read(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_attention_is_measured_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(attention, "COUNTS", (4,))
    assert bench.main(["--parts", "attention", "--rounds", "3", "--device", "cpu", "--output", str(tmp_path)]) == 0
    rows = read(tmp_path / "bench/prefix_attention_cpu.csv")
    assert [(row["dtype"], row["code"]) for row in rows] == [
        (dtype, code) for dtype in ("fp32", "bf16") for code in ("auto", "dense mask", "dense mask, heads repeated")
    ]
    for row in rows:
        assert float(row["ms"]) > 0 < float(row["dense_over_this"])
        assert row["rounds"] == "3"
        assert row["torch"] == torch.__version__
        assert row["cpu"]
    assert "prefix attention at least 1.00 times as fast" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--parts", "full", "--device", "cpu"], "needs an NVIDIA GPU of 80 GB or more"),
        pytest.param(
            ["--device", "cuda"],
            "no NVIDIA GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_what_needs_a_gpu_says_so_and_writes_nothing(arguments, said, tmp_path, capsys):
    assert bench.main([*arguments, "--output", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_full_models_step_runs_on_a_small_one(small):
    rows = {row["code"]: row for row in full_step.compared(small, NODE)}
    assert list(rows) == ["plain residual", "as written", "transformers"]
    assert all(set(row) <= set(full_step.COLUMNS) for row in rows.values())
    written = rows["as written"]
    # A4 gives two crops; 16 queries a page, 4 a crop, one separator
    assert (written["crops"], written["visual_tokens"], written["tokens"]) == (4, 2 * (2 * 4 + 16 + 1), 96)
    assert written["topologies"] == "vision.encoder: ManifoldHyperConnection, decoder: Residual"
    assert rows["plain residual"]["topologies"] == "vision.encoder: Residual, decoder: Residual"
    for code in ("plain residual", "as written"):
        row = rows[code]
        assert row["tokens_per_s"] > 0 < row["tflop_per_step"]
        assert 0 < row["loss"] < 10
        assert all(row[f"{part}_ms"] > 0 for part in full_step.PARTS)
        assert row["over_plain"] == pytest.approx(row["step_ms"] / rows["plain residual"]["step_ms"])
    # or none at all
    assert rows["transformers"]["reason"].startswith("transformers")
    assert rows["transformers"]["reason"] in full_step.line(rows["transformers"])
    assert "as written" in full_step.line(written)


def test_a_plain_configuration_is_measured_once(small, uncounted, monkeypatch):
    monkeypatch.setattr(full_step, "step_row", lambda *_: {"step_ms": 2.0})
    codes = [row["code"] for row in full_step.compared(small, full_models.plain(NODE))]
    assert codes == ["plain residual", "transformers"]


def test_what_does_not_fit_is_told_and_the_others_are_measured(small, uncounted, monkeypatch):
    def step_row(clock, make, tokens, images):
        if make.args[0] != full_models.plain(NODE):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return {"step_ms": 2.0, "parameters": 1}

    monkeypatch.setattr(full_step, "step_row", step_row)
    rows = {row["code"]: row for row in full_step.compared(small, NODE)}
    assert rows["as written"]["reason"].startswith("the step of 2 pages of 48 tokens does not fit: take fewer --pages")
    assert rows["transformers"]["over_plain"] == 1.0

    def none(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(full_step, "step_row", none)
    with pytest.raises(CannotMeasure, match="does not fit"):
        list(full_step.compared(small, NODE))


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"as written": 1.04, "transformers": 1.61}, ["reached", "reached"]),
        ({"as written": 1.06, "transformers": 1.49}, ["not reached", "not reached"]),
        ({"transformers": 1.5}, ["reached"]),
    ],
)
def test_goals_are_the_ratios_to_the_plain_residual(over, said):
    rows = [{"code": "plain residual", "step_ms": 1.0, "over_plain": 1.0}]
    rows += [{"code": code, "step_ms": ratio, "over_plain": ratio} for code, ratio in over.items()]
    lines = full_step.goals(rows, "cuda").splitlines()
    assert [line[2:14].strip() for line in lines[1:]] == said
    assert "MFU unknown" in lines[0]


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ("as written", ["not measured", "not measured", "reached"]),
        ("plain residual", ["reached", "not measured", "not measured"]),
        ("transformers", ["reached", "reached", "not measured"]),
    ],
)
def test_goals_say_what_was_not_measured_and_why(lacking, said):
    over = {"plain residual": 1.0, "as written": 1.02, "transformers": 2.0}
    rows = [
        {"code": code, "reason": "too large"}
        if code == lacking
        else {"code": code, "step_ms": 1.0, "over_plain": ratio}
        for code, ratio in over.items()
    ]
    lines = full_step.goals(rows, "cuda").splitlines()
    assert [line[2:14].strip() for line in lines] == said
    assert [line.endswith(": too large") for line in lines] == [state == "not measured" for state in said]


def test_the_peers_step_and_its_parts(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(full_step, "Views", partial(Views, max_crops=2))
    settings = Settings("cpu", pages=1, sequence=600)
    tokens, images, _ = full_step._given(RELEASED, settings)
    for make in (full_models.ours, full_models.theirs):
        torch.manual_seed(0)
        trained = make(RELEASED)
        with Timeline(trained.parts) as timeline:
            loss = trained.loss(tokens, images)
            loss.backward()
        # of 40 tokens, by models that know nothing
        assert loss.item() == pytest.approx(math.log(40), rel=0.02)
        found = timeline.milliseconds()
        assert set(found) == {"tokenizer", "encoder", "embedding", "decoder", "other"}
        # the tokenizer has by far the most to do, and the decoder the most beside it
        assert found["tokenizer"] > found["decoder"] > found["embedding"]


def test_the_peer_has_the_sizes_of_the_full_model():
    pytest.importorskip("transformers")
    full = full_models.plain(full_step._network(Settings("cuda")))
    with torch.device("meta"):
        found = {make: make(full) for make in (full_models.ours, full_models.theirs)}
    sizes = [
        {
            part: sum(parameter.numel() for module in modules for parameter in module.parameters())
            for part, modules in trained.parts.items()
        }
        for trained in found.values()
    ]
    assert sizes[0] == sizes[1]
    assert len({sum(parameter.numel() for parameter in trained.model.parameters()) for trained in found.values()}) == 1


def test_flops_are_the_models_and_not_those_of_recomputation(small):
    counted = full_step.step_flops(NODE, 1, 48)
    arguments = NODE["init_args"] | {"decoder": NODE["init_args"]["decoder"] | {}}
    arguments["decoder"]["init_args"] = {**arguments["decoder"]["init_args"], "recompute": None}
    assert full_step.step_flops(NODE | {"init_args": arguments}, 1, 48) == counted
    assert full_step.step_flops(NODE, 2, 48) == pytest.approx(2 * counted, rel=0.01)


def test_a_sequence_without_room_for_text_is_named(small):
    with pytest.raises(CannotMeasure, match="--sequence 20 leaves no text beside the 25 visual tokens"):
        full_step.step_flops(NODE, 1, 20)


@pytest.mark.parametrize("text", [None, "model: {}", "model: ["])
def test_a_configuration_without_a_network_is_named(text, tmp_path):
    path = tmp_path / "full.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CannotMeasure, match=r"full\.yaml has no node model\.init_args\.network"):
        list(full_step.rows(Settings("cuda", config=path)))


def test_the_full_configuration_has_its_network():
    node = full_step._network(Settings("cuda"))
    assert node["class_path"].endswith("OCR2")


@pytest.mark.parametrize(
    ("gpu", "peak"),
    [("NVIDIA H200", 989.0), ("NVIDIA H100 PCIe", 756.0), ("NVIDIA H100 80GB HBM3", 989.0), ("T4", None)],
)
def test_peaks_by_name(gpu, peak):
    assert full_step.peak_tflop(gpu) == peak


def test_two_models_that_differ_are_not_compared(monkeypatch):
    class Other(torch.nn.Module):
        def save_pretrained(self, folder):
            pass

        def forward(self, **inputs):
            return type("Output", (), {"loss": torch.tensor(2.0)})

    class Ours(torch.nn.Module):
        def forward(self, tokens, images):
            return torch.zeros(*tokens.shape, training_step.VOCABULARY)

    monkeypatch.setattr(training_step, "_peer", Other)
    monkeypatch.setattr(training_step, "load_ocr2", lambda folder: Ours())
    with pytest.raises(CannotMeasure, match="do not compute the same"):
        next(training_step.rows(Settings("cpu")))


def test_codes_take_turns_and_ratios_are_within_a_round():
    order = []
    times = alternate({name: partial(order.append, name) for name in "ab"}, Settings("cpu", rounds=3))
    assert "".join(order) == "ab" + "abbaab"
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3}
    # both are twice as slow in the second round
    assert ratio({"a": [2.0, 4.0], "b": [1.0, 2.0]}, "a", "b") == Spread(2.0, 2.0, 2.0)
