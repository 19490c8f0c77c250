"""JSONL and parquet, and what is wrong with a line, a row or a file."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from record_files import bomb, text, write_lines, write_mix

from encoders.images import ImageError
from recipes.data.records import JSONLines, OLMOCRMix, RecordError


def test_lines_with_paths_and_base64(tmp_path):
    write_lines(tmp_path / "a.jsonl", range(6))
    write_lines(tmp_path / "b.jsonl", range(6, 9))
    records = JSONLines(str(tmp_path))
    assert len(records) == 9
    assert [records.read(index).text for index in (8, 0, 4, 5)] == [text(8), text(0), text(4), text(5)]
    assert {records.read(index).image.size for index in range(9)} == {(40, 60)}
    assert records.key(7) == "b.jsonl line 2"


def test_broken_lines_are_named_and_the_others_read(tmp_path):
    (tmp_path / "bomb.png").write_bytes(bomb())
    lines = [
        '{"image": "a.png", "text": "cut',
        "[]",
        '{"image": "a.png"}',
        '{"text": "x"}',
        '{"image": "none.png", "text": "x"}',
        '{"image_base64": "!", "text": "x"}',
        '{"image": "bomb.png", "text": "x"}',
        "",
        json.dumps({"image": "data:image/png;base64,AAAA", "text": "x"}),
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    records = JSONLines(str(tmp_path / "a.jsonl"))
    expected = [
        (RecordError, "line 1: is no JSON"),
        (RecordError, "line 2: has no text in 'text'"),
        (RecordError, "line 3: has no text in 'text'"),
        (RecordError, "line 4: has no image in 'image' or 'image_base64'"),
        (ImageError, r"line 5: .*none\.png: cannot be read"),
        (RecordError, "line 6: has an image that is no base64"),
        (ImageError, r"line 7: .*bomb\.png: .*pixels"),
        (ImageError, "line 9: is no image"),
    ]
    assert len(records) == len(expected)
    for index, (error, match) in enumerate(expected):
        with pytest.raises(error, match=rf"^a\.jsonl {match}"):
            records.read(index)


@pytest.mark.parametrize("version", [225, 1025])
def test_rows_of_both_layouts(tmp_path, version):
    path = write_mix(tmp_path, range(3), version)
    records = OLMOCRMix(str(path), dpi=72)
    assert len(records) == 3
    record = records.read(2)
    assert (record.text, record.key) == (text(2), "train.parquet abcd2-1")
    # the PDF's one page, whatever the row's page_number
    assert record.image.size == (120, 90)


def test_pdfs_elsewhere_and_an_index_without_a_name(tmp_path):
    path = write_mix(tmp_path, range(2), 225)
    table = pq.read_table(path)
    pq.write_table(table.rename_columns(["__index_level_0__", *table.column_names[1:]]), path)
    (tmp_path / "pdf_tarballs" / "extracted").rename(tmp_path / "pdfs")
    assert OLMOCRMix(str(path), pdfs=str(tmp_path / "pdfs")).read(1).text == text(1)
    with pytest.raises(RecordError, match=r"abcd1-1: has no PDF; looked for .*extracted.abcd1-1\.pdf"):
        OLMOCRMix(str(path)).read(1)


def test_broken_rows_are_named(tmp_path):
    rows = [
        {"id": "a", "response": "{"},
        {"id": "b", "response": '{"natural_text": null}'},
        {"id": "c", "response": None},
        {"id": "d", "response": "{}"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    records = OLMOCRMix(str(tmp_path))
    for index, match in enumerate(
        ["a: has a response", "b: has no natural_text: the page is blank", "c: has", "d: has"]
    ):
        with pytest.raises(RecordError, match=rf"^a\.parquet {match}"):
            records.read(index)


def test_a_cut_parquet_is_a_fault(tmp_path):
    path = write_mix(tmp_path, range(3), 1025)
    whole = path.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    records = OLMOCRMix(str(tmp_path), dpi=36)
    assert len(records) == 3
    assert len(records.faults) == 2
    assert "cut.parquet: cannot be read as parquet, or is cut" in records.faults[0]
    assert "neither natural_text nor response, but a" in records.faults[1]
    assert records.read(0).text == text(0)
