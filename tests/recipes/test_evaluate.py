"""`python -m recipes.evaluate`: the benchmark's golden scores, pages of our own, and bad input."""

import json
import os
import shutil
from pathlib import Path

import pytest
from test_read import checkpoint, page  # noqa: F401

from recipes.evaluate import main
from recipes.evaluation.page import score_page
from recipes.evaluation.run import evaluate
from recipes.evaluation.truth import Page, read_truth

DEMO = Path(os.environ.get("OMNIDOCBENCH_DEMO", Path(__file__).parents[3] / "shared" / "omnidocbench_demo"))
needs_demo = pytest.mark.skipif(not DEMO.is_dir(), reason=f"OmniDocBench's demo pages are not at {DEMO}")

TABLE = "<table><tr><td>a</td><td>b</td></tr></table>"


def block(number: int, category: str = "text_block", order: int | None = None, **content: str) -> dict:
    order = number if order is None else order
    return {"category_type": category, "anno_id": number, "order": order, "ignore": False, **content}


def entry(name: str, *blocks: dict, relations: tuple = (), **attributes: str) -> dict:
    information = {"image_path": f"images/{name}.jpg", "page_attribute": {"language": "english", **attributes}}
    return {"layout_dets": list(blocks), "extra": {"relation": list(relations)}, "page_info": information}


def cut(source: int, target: int) -> dict:
    return {"source_anno_id": source, "target_anno_id": target, "relation_type": "truncated"}


ONE = entry("one", block(1, text="Alpha beta."), block(2, text="Gamma delta!"), data_source="book")
TWO = entry("two", block(1, "title", text="A title"), block(2, "table", html=TABLE), data_source="note")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("predictions").mkdir()
    return tmp_path


def run(*records: object, options: tuple[str, ...] = ("--predictions", "predictions"), **pages: str) -> int:
    Path("truth.json").write_text(json.dumps(records))
    for name, text in pages.items():
        Path("predictions", f"{name}.md").write_text(text)
    return main([*options, "--ground-truth", "truth.json", "--output", "out/scores.json"])


def scores() -> dict:
    return json.loads(Path("out/scores.json").read_text())


def score(text: str, *blocks: dict, relations: tuple = ()):
    record = entry("page", *blocks, relations=relations)
    return score_page(Page("page.jpg", {}, record), text)


@needs_demo
def test_the_golden_pages_have_their_golden_scores(folder, capsys):
    golden = json.loads((DEMO / "golden.json").read_text(encoding="utf-8"))
    for name in golden["pages"]:
        shutil.copy(DEMO / "predictions" / f"{Path(name).stem}.md", "predictions")
    truth = str(DEMO / "OmniDocBench_demo.json")
    assert main(["--predictions", "predictions", "--ground-truth", truth, "--output", "scores.json"]) == 0
    found, wanted = json.loads(Path("scores.json").read_text()), golden["metrics"]

    def near(number: float):
        return pytest.approx(number, abs=1e-9)

    assert found["text_block"]["edit_distance"] == near(wanted["text_block"]["Edit_dist"]["ALL_page_avg"])
    assert found["display_formula"]["edit_distance"] is None
    assert found["reading_order"]["edit_distance"] == near(wanted["reading_order_page"]["Edit_dist"])
    assert found["table"] == {
        "teds": near(wanted["table_page"]["TEDS"]),
        "teds_structure": near(wanted["table_page"]["TEDS_structure_only"]),
        "edit_distance": near(wanted["table_page"]["Edit_dist"]),
    }
    for element, key in (("text_block", "text_block"), ("reading_order", "reading_order"), ("table", "table")):
        pages = {name: page[element]["edit_distance"] for name, page in found["pages"].items()}
        wanted_pages = golden[f"{key}_edit_distance_per_page"]
        assert {name: value for name, value in pages.items() if value is not None} == {
            name: near(value) for name, value in wanted_pages.items()
        }
    # nine pages of the truth have no prediction here
    assert len(found["missing"]) == 9
    assert "overall" in capsys.readouterr().out


@needs_demo
def test_each_golden_table_has_its_golden_similarity():
    golden = json.loads((DEMO / "golden.json").read_text(encoding="utf-8"))
    pages, _ = read_truth(DEMO / "OmniDocBench_demo.json")
    found = {}
    for truth in pages:
        text = (DEMO / "predictions" / f"{Path(truth.name).stem}.md").read_text(encoding="utf-8")
        if truth.name in golden["pages"]:
            for number, pair in enumerate(score_page(truth, text).tables):
                found[f"{truth.name}_[{number}]"] = dict(zip(("TEDS", "TEDS_structure_only"), pair, strict=True))
    assert found == {
        name: {metric: pytest.approx(value, abs=1e-9) for metric, value in metrics.items()}
        for name, metrics in golden["table_teds_per_table"].items()
    }


def test_processes_give_what_one_process_gives(folder):
    records = [entry(f"page{k}", block(1, text=f"page {k % 7}"), block(2, "table", html=TABLE)) for k in range(50)]
    assert (
        run(
            *records,
            options=("--predictions", "predictions", "--jobs", "1"),
            **{f"page{k}": f"page {k}\n\n{TABLE}" if k != 9 else "" for k in range(48)},
        )
        == 0
    )
    pages, _ = read_truth(Path("truth.json"))
    predictions = {page.name: Path("predictions", f"{Path(page.name).stem}.md") for page in pages[:48]}
    seen: list[str] = []
    one, two = evaluate(pages, predictions, 1, seen.append), evaluate(pages, predictions, 2, seen.append)
    assert one == two
    assert (len(one.scores), one.missing) == (48, ["page48.jpg", "page49.jpg"])
    assert seen == list(one.scores) * 2


def test_the_file_of_scores_and_the_table(folder, capsys):
    options = ("--predictions", "predictions", "--no-cdm")
    assert run(ONE, TWO, options=options, one="Alpha beta\n\nGamma dulta", two=f"# A title\n\n{TABLE}") == 0
    found = scores()
    assert found["text_block"] == {"edit_distance": pytest.approx((1 / 19 + 0) / 2)}
    assert found["display_formula"] == {"edit_distance": None}
    assert found["table"] == {"teds": 1, "teds_structure": 1, "edit_distance": 0}
    assert found["reading_order"] == {"edit_distance": 0}
    assert found["pages"]["one.jpg"]["text_block"] == {"edit_distance": pytest.approx(1 / 19)}
    assert found["groups"]["page type"]["note"]["count"] == 1
    assert found["groups"]["language"]["english"]["text_block"] == found["text_block"]
    told = capsys.readouterr().out
    assert "page type: book" in told
    assert "language: english" in told
    assert "CDM is left out" in told


def test_a_page_without_a_prediction_is_in_no_average_and_an_empty_one_is_wrong(folder, capsys):
    assert run(ONE, TWO, one="Alpha beta\n\nGamma delta", stranger="no page of it") == 0
    assert scores()["missing"] == ["two.jpg"]
    assert scores()["text_block"] == {"edit_distance": 0}
    assert scores()["table"]["teds"] is None
    told = capsys.readouterr().out
    assert "1 without a prediction, in no average as in the benchmark: two.jpg" in told
    assert "1 of no page in the truth, not scored: stranger.md" in told
    assert run(ONE, TWO, two="") == 0
    assert scores()["text_block"] == {"edit_distance": 0.5}
    assert scores()["table"] == {"teds": 0, "teds_structure": 0, "edit_distance": 1}
    assert scores()["pages"]["two.jpg"]["reading_order"] == {"edit_distance": 1}


def test_broken_pages_are_named_and_the_others_scored(folder, capsys):
    Path("predictions/two.md").write_bytes(b"A title \xff")
    three = entry("three", {"category_type": "text_block", "anno_id": 1, "order": 1})
    empty = entry("empty")
    assert run(ONE, TWO, three, empty, {"layout_dets": []}, one="Alpha", three="x", empty="no truth at all") == 1
    assert set(scores()["broken"]) == {"two.jpg", "three.jpg", "entry 4 of truth.json"}
    assert set(scores()["pages"]) == {"one.jpg", "empty.jpg"}
    assert scores()["pages"]["empty.jpg"]["text_block"] == {"edit_distance": None}
    complaints = capsys.readouterr().err.splitlines()
    assert sorted(complaints) == [
        "error: entry 4 of truth.json: it has no page_info.image_path",
        "error: three.jpg: its truth is broken (there is no 'text' where one is needed)",
        "error: two.jpg: predictions/two.md is no UTF-8 text (byte 8)",
    ]


@pytest.mark.parametrize(
    ("truth", "options", "complaint"),
    [
        (None, (), "truth.json cannot be read (No such file or directory)"),
        ("{", (), "truth.json is no JSON"),
        ("{}", (), "truth.json holds no pages"),
        ("[3]", (), "entry 0 of truth.json: it has no page_info.image_path, and no other entry is a page"),
        (json.dumps([ONE, ONE]), (), "truth.json has two pages of one.jpg"),
        (json.dumps([ONE]), (), "no prediction of any of the 1 pages; the one of one.jpg would be one.md"),
        (json.dumps([ONE]), ("--predictions", "nowhere"), "--predictions: nowhere is no folder"),
        (json.dumps([ONE]), ("--output", "predictions"), "--output: predictions is a folder"),
        (json.dumps([ONE]), ("--checkpoint", "x", "--images", "nowhere"), "--images: nowhere is no folder"),
        (json.dumps([ONE]), ("--checkpoint", "x", "--images", "predictions"), "has none of the 1 images"),
    ],
)  # fmt: skip
def test_where_nothing_can_be_scored_a_sentence_says_why(truth, options, complaint, folder, capsys):
    if truth is not None:
        Path("truth.json").write_text(truth)
    given = ["--predictions", "predictions", "--ground-truth", "truth.json", "--output", "scores.json", *options]
    assert main(given) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert complaint in told
    assert not Path("scores.json").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((), "give --predictions FOLDER, or --checkpoint FOLDER and --images FOLDER"),
        (("--checkpoint", "x"), "--checkpoint and --images go together"),
        (("--predictions", "x", "--batch-size", "2"), "unrecognized arguments: --batch-size 2"),
        (("--predictions", "x", "--jobs", "0"), "must be a whole number of at least 1, got 0"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(options, complaint, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*options, "--ground-truth", "truth.json", "--output", "scores.json"])
    assert exit_.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_checkpoint_reads_the_pages_first(checkpoint, folder, capsys):  # noqa: F811
    Path("images").mkdir()
    page().save("images/one.jpg")
    page().save("images/not in the truth.jpg")
    options = ("--checkpoint", str(checkpoint), "--images", "images", "--max-new-tokens", "6")
    assert run(ONE, TWO, options=options) == 0
    # beside the scores, under the names that the benchmark's tool looks for
    assert [path.name for path in Path("out/predictions").iterdir()] == ["one.md"]
    assert scores()["missing"] == ["two.jpg"]
    assert 0.5 < scores()["text_block"]["edit_distance"] <= 1
    # what is there is not read again unless one says so
    assert run(ONE, TWO, options=options) == 2
    assert "one.md exists; --resume" in capsys.readouterr().err
    assert run(ONE, TWO, options=(*options, "--resume")) == 0
