"""Tar shards: every record from its own place, an index that is kept, and shards that are cut."""

import os

import pytest
from record_files import bomb, png, text, write_shard

from encoders.images import ImageError
from recipes.data.records import RecordError, TarShards


def test_records_are_read_from_their_places_in_any_order(tmp_path):
    write_shard(tmp_path / "a-000.tar", range(3))
    write_shard(tmp_path / "a-001.tar", range(3, 5), {"train/0009.jpg.txt": b"no image of this name"})
    records = TarShards(str(tmp_path))
    assert len(records) == 5
    assert [records.read(index).text for index in (4, 0, 2)] == [text(4), text(0), text(2)]
    assert records.key(3) == "a-001.tar/train/0003"
    assert records.read(3).image.size == (40, 60)
    assert records.read(0).image.tobytes() != records.read(1).image.tobytes()
    assert records.faults == ["a-001.tar/train/0009: has no image"]


def test_names_end_at_their_first_dot(tmp_path):
    write_shard(tmp_path / "a.tar", range(0), {"v1.5/x.png": png(1), "v1.5/x.txt": b"other", "v1.5/x.seg.png": png(2)})
    records = TarShards(str(tmp_path / "*.tar"))
    assert [records.key(index) for index in range(len(records))] == ["a.tar/v1.5/x"]
    assert records.read(0).text == "other"


@pytest.mark.parametrize(("cut", "left"), [(3500, 1), (2048, 1), (1024, 0)])
def test_a_cut_shard_gives_what_stands_before_the_cut(tmp_path, cut, left):
    """Within a member, between two of them, and within the first record."""
    path = tmp_path / "a.tar"
    write_shard(path, range(4))
    path.write_bytes(path.read_bytes()[:cut])
    records = TarShards(str(path))
    assert len(records) == left
    assert any("a.tar: is no tar, or cut" in fault for fault in records.faults)
    assert all(records.read(index).text == text(index) for index in range(left))


def test_what_is_no_tar(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"not a tar" * 200)
    assert "is no tar, or cut" in TarShards(str(tmp_path)).faults[0]
    (tmp_path / "b.tar").write_bytes(b"")
    assert len(TarShards(str(tmp_path / "b.tar")).faults) == 1
    with pytest.raises(ValueError, match=r"holds no \.tar: give a file, a folder, or a pattern"):
        len(TarShards(str(tmp_path / "none")))


def test_an_index_is_kept_and_made_anew_for_another_shard(tmp_path, monkeypatch):
    path, kept = tmp_path / "a.tar", tmp_path / "index"
    write_shard(path, range(3))
    first = TarShards(str(path), index=str(kept))
    assert len(first) == 3
    assert len(list(kept.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr("recipes.data.records.tar_shards._scan", lambda *_: pytest.fail("looked through again"))
        again = TarShards(str(path), index=str(kept))
        assert [again.read(index).text for index in range(3)] == [text(0), text(1), text(2)]
    write_shard(path, range(5))
    assert len(TarShards(str(path), index=str(kept))) == 5
    next(kept.iterdir()).write_text("[")
    assert len(TarShards(str(path), index=str(kept))) == 5


def test_broken_members_are_named(tmp_path):
    more = {"b.png": bomb(), "b.md": b"text", "c.png": png(1), "c.md": b"\xff", "d.png": b"no", "d.md": b"text"}
    write_shard(tmp_path / "a.tar", range(0), more)
    records = TarShards(str(tmp_path))
    with pytest.raises(ImageError, match=r"^a\.tar/b\.png: .*pixels"):
        records.read(0)
    with pytest.raises(RecordError, match=r"^a\.tar/c: cannot be read"):
        records.read(1)
    with pytest.raises(ImageError, match=r"^a\.tar/d\.png: is no image"):
        records.read(2)
    # cut after it was looked through
    os.truncate(tmp_path / "a.tar", 2000)
    with pytest.raises(RecordError, match=r"^a\.tar/c: cannot be read \(the shard ends after"):
        records.read(1)


def test_digests_follow_the_shards(tmp_path):
    write_shard(tmp_path / "a.tar", range(3))
    before = TarShards(str(tmp_path)).digest()
    assert TarShards(str(tmp_path)).digest() == before
    write_shard(tmp_path / "b.tar", range(3))
    assert TarShards(str(tmp_path)).digest() != before
