"""`python -m recipes.probe`: a checkpoint and pages in, a report and pictures out, a line for whatever is wrong."""

import json
import os
import re
from pathlib import Path

import pytest
from helpers import randomise
from PIL import Image
from probe_cases import PIXELS, in_columns, in_disorder, network
from tiny_tokenizer import tiny_tokenizer

from encoders.processor import OCR2Processor
from encoders.released import save_ocr2
from encoders.views import Views
from recipes.probe import main

DEMO = Path(os.environ.get("OMNIDOCBENCH_DEMO", Path(__file__).parents[3] / "shared" / "omnidocbench_demo"))
TRUTH = DEMO / "OmniDocBench_demo.json"
FEW = ["--scrambled", "2", "--permutations", "50", "--text-tokens", "20"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = tiny_tokenizer()
    save_ocr2(randomise(network(tokenizer.get_vocab_size(), counts={PIXELS: 16, 32: 9}), 0.2), folder)
    OCR2Processor(tokenizer, views=Views(global_size=PIXELS, crop_size=32, max_crops=4)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def truth(tmp_path) -> Path:
    """Three pages as OmniDocBench has them."""
    pages = [*in_disorder(2), in_columns()]
    entries = []
    (tmp_path / "images").mkdir()
    for page in pages:
        page.image.save(tmp_path / "images" / f"{page.name}.png")
        blocks = [
            {"category_type": "text_block", "poly": corners(block.box), "ignore": False, "order": block.order,
             "text": block.text}
            for block in page.blocks
        ]  # fmt: skip
        blocks += [
            {"category_type": "header", "poly": corners((0, 0, 9, 9)), "ignore": False, "order": None},
            {"category_type": "text_block", "poly": corners((0, 0, 9, 9)), "ignore": True, "order": 3},
        ]
        info = {"image_path": f"{page.name}.png", "width": 1, "height": 1,
                "page_attribute": {"data_source": page.page_type, "layout": page.layout}}  # fmt: skip
        entries.append({"layout_dets": blocks, "page_info": info})
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(entries))
    return path


def corners(box):
    left, top, right, bottom = box
    return [left, top, right, top, right, bottom, left, bottom]


def test_report_and_pictures(checkpoint, truth, tmp_path, capsys):
    out = tmp_path / "out" / "deep"
    assert main(["--checkpoint", checkpoint, "--pages", str(truth), "--output", str(out), *FEW]) == 0
    found = json.loads((out / "probe.json").read_text())
    assert found["encoder"] == "CausalFlowEncoder"
    assert len(found["pages"]) == 3
    assert [len(page["views"]) for page in found["pages"]] == [1, 1, 1]
    assert found["pages"][0]["views"][0]["blocks"] == 8
    assert len(found["scrambled"]) == 2
    assert set(found["by_page_type"]) == {"book", "type0", "type1"}
    assert set(found["summary"]["changes"]) == {"shuffled", "reversed", "zeroed"}
    assert found["summary"]["changes"]["zeroed"]["loss"]["n"] == 3
    assert found["summary"]["moves"]["columns exchanged"]["content"]["n"] == 3
    report = (out / "probe.md").read_text()
    told = capsys.readouterr().out
    for sentence in found["findings"]:
        assert f"- {sentence}" in report
        assert sentence in told
    assert "| layout: double_column | 3 |" in report
    assert not re.search(r"\bnan\b|\binf\b", report)
    pictures = {f"{name}.path.png" for name in ("page0", "page1", "columns")}
    assert {path.name for path in out.iterdir()} == pictures | {"probe.json", "probe.md"}
    with Image.open(out / "page0.path.png") as picture:
        assert min(picture.size) > 500
        assert len(picture.convert("RGB").resize((60, 60)).getcolors(3600)) > 50


def test_crops_are_probed_where_they_are_wanted(checkpoint, truth, tmp_path):
    arguments = ["--checkpoint", checkpoint, "--pages", str(truth), "--output", str(tmp_path / "out"), "--crops"]
    assert main([*arguments, "--limit", "1", "--scrambled", "0", "--permutations", "10", "--text-tokens", "0"]) == 0
    page = json.loads((tmp_path / "out" / "probe.json").read_text())["pages"][0]
    # each crop has two blocks of each of two rows
    assert [view["blocks"] for view in page["views"]] == [8, 2, 2, 2, 2]
    assert [view["queries"] for view in page["views"]] == [16, 9, 9, 9, 9]
    assert page["loss"] is None
    pictures = {"page0.path.png", *(f"page0.crop-{k}.path.png" for k in range(4))}
    assert {path.name for path in (tmp_path / "out").iterdir()} == pictures | {"probe.json", "probe.md"}


def test_a_folder_of_images_has_no_order(checkpoint, truth, tmp_path, capsys):
    out = tmp_path / "out"
    (truth.parent / "images" / "page0.md").write_text("text")
    arguments = ["--checkpoint", checkpoint, "--pages", str(truth.parent / "images"), "--output", str(out)]
    assert main([*arguments, *FEW, "--limit", "2"]) == 0
    assert "No page has blocks in a known order" in capsys.readouterr().out
    found = json.loads((out / "probe.json").read_text())
    # columns has no Markdown beside it, page0 has
    assert [page["loss"] is None for page in found["pages"]] == [True, False]
    assert (out / "page0.path.png").is_file()
    assert not (out / "page1.path.png").exists()


def test_a_page_that_cannot_be_read_is_told_and_the_rest_probed(checkpoint, truth, tmp_path, capsys):
    (truth.parent / "images" / "page1.png").write_bytes(b"no image")
    out = tmp_path / "out"
    assert main(["--checkpoint", checkpoint, "--pages", str(truth), "--output", str(out), *FEW]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert "page1.png: is no image" in errors[0]
    assert "page1.png" in (out / "probe.md").read_text()
    for name in ("page0", "columns"):
        (truth.parent / "images" / f"{name}.png").unlink()
    assert main(["--checkpoint", checkpoint, "--pages", str(truth), "--output", str(out), *FEW]) == 2
    assert "none of the 3 pages" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "must hold a list of pages"),
        ('{"a": 1}', "must hold a list of pages"),
        ('[{"layout_dets": []}]', "page 0 has no page_info.image_path"),
        ('[{"layout_dets": 3, "page_info": {"image_path": "a.png"}}]', "page 0: layout_dets must be a list"),
        ('[{"layout_dets": [{"poly": [1, 2]}], "page_info": {"image_path": "a.png"}}]', "layout_dets[0]: poly must be"),
        (
            '[{"layout_dets": [{"poly": [0, 0, 1, 0, 1, 1, 0, 1], "order": "x"}], "page_info": {"image_path": "a"}}]',
            "layout_dets[0]: order must be a number or null, got 'x'",
        ),
        (
            '[{"layout_dets": [], "page_info": {"image_path": "a.png"}}, '
            '{"layout_dets": [], "page_info": {"image_path": "a.jpg"}}]',
            "two pages that are named a",
        ),
    ],
)
def test_a_ground_truth_that_is_none_is_one_sentence(content, message, tmp_path, capsys):
    path = tmp_path / "truth.json"
    path.write_text(content)
    assert main(["--checkpoint", "x", "--pages", str(path), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_named(checkpoint, truth, tmp_path, capsys):
    out = ["--output", str(tmp_path / "out")]
    (tmp_path / "empty").mkdir()
    for arguments, message in [
        (["--checkpoint", checkpoint, "--pages", str(tmp_path / "none.json"), *out], "none.json cannot be read"),
        (["--checkpoint", checkpoint, "--pages", str(tmp_path / "empty"), *out], "holds no images"),
        (["--checkpoint", str(tmp_path / "none"), "--pages", str(truth), *out], "none is no folder"),
        (["--checkpoint", checkpoint, "--pages", str(truth), *out, "--device", "warp"], "warp is no device"),
        (["--checkpoint", checkpoint, "--pages", str(truth), "--output", str(truth)], "cannot be written"),
    ]:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    with pytest.raises(SystemExit) as left:
        main(["--checkpoint", checkpoint, "--pages", str(truth), *out, "--limit", "0"])
    assert left.value.code == 2


@pytest.mark.skipif(not TRUTH.is_file(), reason="no OmniDocBench demo: set OMNIDOCBENCH_DEMO to its folder")
def test_real_pages(checkpoint, tmp_path):
    arguments = ["--checkpoint", checkpoint, "--pages", str(TRUTH), "--output", str(tmp_path), "--limit", "2"]
    assert main([*arguments, "--scrambled", "0", "--permutations", "50", "--text-tokens", "20"]) == 0
    found = json.loads((tmp_path / "probe.json").read_text())
    assert [page["views"][0]["blocks"] for page in found["pages"]] == [4, 2]
    assert "not compared with scrambled weights" in found["findings"][0]
