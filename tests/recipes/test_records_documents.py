"""Pages of folders, of PDFs with a text layer, and of OmniDocBench's ground truth."""

import json
import os
from pathlib import Path

import pytest
from record_files import pdf, png

from encoders.images import ImageError
from recipes.data.records import OmniDocBench, PairFolder, PDFText, RecordError

DEMO = Path(os.environ.get("OMNIDOCBENCH_DEMO", Path(__file__).parents[3] / "shared" / "omnidocbench_demo"))


def test_pairs(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/x.png", "a.jpeg", "alone.png"):
        (tmp_path / name).write_bytes(png(1))
    (tmp_path / "b" / "x.md").write_text("Größe", encoding="utf-8")
    (tmp_path / "a.md").write_bytes(b"\xff")
    records = PairFolder(str(tmp_path))
    assert [records.key(index) for index in range(len(records))] == ["a.jpeg", "b/x.png"]
    assert records.read(1).text == "Größe"
    assert records.faults == [f"{tmp_path / 'alone.png'}: has no Markdown beside it"]
    with pytest.raises(RecordError, match=r"a\.md: cannot be read"):
        records.read(0)


def test_pdfs_with_and_without_a_text_layer(tmp_path):
    (tmp_path / "a.pdf").write_bytes(pdf(["Some words\n\non two lines", "", "2"]))
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.7 and no more")
    records = PDFText(str(tmp_path), dpi=144)
    assert len(records) == 3
    record = records.read(0)
    assert record.text.split() == ["Some", "words", "on", "two", "lines"]
    assert "\r" not in record.text
    assert record.image.size == (240, 180)
    with pytest.raises(RecordError, match=r"^a\.pdf page 2: has no text layer"):
        records.read(1)
    assert records.read(2).text == "2"
    with pytest.raises(RecordError, match=r"^a\.pdf page 3: has a text layer of 1 characters alone"):
        PDFText(str(tmp_path), min_characters=5).read(2)
    assert len(records.faults) == 1
    assert "b.pdf: is no PDF, or broken" in records.faults[0]


def test_words_cut_at_the_end_of_a_line_are_whole(tmp_path):
    long = "#set text(hyphenate: true)\nIncomprehensibilities characteristically misunderstanding"
    (tmp_path / "a.pdf").write_bytes(pdf([long]))
    assert "characteristically" in PDFText(str(tmp_path)).read(0).text


def entry(image: str, blocks: list[dict], **more) -> dict:
    return {"layout_dets": blocks, "page_info": {"image_path": image}, "extra": {"relation": []}} | more


def block(category: str, order: int | None, anno_id: int, **content: str) -> dict:
    return {"category_type": category, "order": order, "anno_id": anno_id, "ignore": False, **content}


def test_ground_truth_as_markdown_in_reading_order(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(1))
    (tmp_path / "images" / "b.png").write_bytes(b"no image")
    blocks = [
        block("table", 4, 3, html="<table><tr><td>1</td></tr></table>"),
        block("header", None, 9, text="running head"),
        block("text_block", 2, 1, text="first half, "),
        block("equation_isolated", 3, 2, latex="x = 1"),
        block("title", 1, 0, text="Title"),
        block("text_block", 5, 4, text="second half"),
        block("figure", 6, 5),
    ]
    relation = {"relation": [{"source_anno_id": 1, "target_anno_id": 4, "relation_type": "truncated"}]}
    pages = [
        entry("sub/a.png", blocks, extra=relation),
        entry("none.png", []),
        {"layout_dets": []},
        entry("b.png", blocks),
        entry("a.png", [{"category_type": "title"}]),
    ]
    (tmp_path / "truth.json").write_text(json.dumps(pages))
    records = OmniDocBench(str(tmp_path / "truth.json"))
    expected = "# Title\n\nfirst half, second half\n\n$$\nx = 1\n$$\n\n<table><tr><td>1</td></tr></table>"
    assert records.read(0).text == expected
    assert len(records) == 3
    assert "none.png: is missing" in records.faults[0]
    assert "entry 2: has no page_info.image_path" in records.faults[1]
    with pytest.raises(ImageError, match=r"b\.png: is no image"):
        records.read(1)
    with pytest.raises(RecordError, match=r"^a\.png: its truth is broken"):
        records.read(2)


@pytest.mark.parametrize(("content", "match"), [("{", "cannot be read as JSON"), ("{}", "is no list of pages")])
def test_what_is_no_ground_truth(tmp_path, content, match):
    (tmp_path / "truth.json").write_text(content)
    with pytest.raises(ValueError, match=match):
        len(OmniDocBench(str(tmp_path / "truth.json")))


@pytest.mark.skipif(not DEMO.is_dir(), reason="no OmniDocBench demo: set OMNIDOCBENCH_DEMO to its folder")
def test_real_pages():
    records = OmniDocBench(str(DEMO / "OmniDocBench_demo.json"))
    assert (len(records), list(records.faults)) == (18, [])
    keys = [records.key(index) for index in range(18)]
    slides = records.read(keys.index("yanbaopptmerge_SE05.pdf_7.jpg"))
    assert slides.text.startswith("# - Human Factors\n\n- the process molds to the needs")
    assert max(slides.image.size) == 2000
    table = records.read(next(index for index, key in enumerate(keys) if "j.chroma" in key))
    assert "<table>" in table.text
    formulas = records.read(next(index for index, key in enumerate(keys) if "physletb" in key))
    assert formulas.text.count("$$") == 24
    for index in range(18):
        text = records.read(index).text
        assert text.strip()
        assert not text.startswith("\n")
