import logging
import os
import shutil
from pathlib import Path

import pytest

from care_accel import Collection
from care_accel.collection.versions import cache


def found(collection):
    return {hit.id: hit.document["text"] for hit in collection.search("高血压", k=50)}


@pytest.fixture
def unwritable(monkeypatch):
    """Return a function after whose call no snapshot can be written, as on a full disk."""

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    return lambda: monkeypatch.setattr(cache.tempfile, "TemporaryDirectory", refuse)


def test_a_snapshot_that_cannot_be_saved_is_searched_all_the_same(collection, rows, unwritable, caplog):
    collection.delete([row["id"] for row in rows[2:]])
    assert len(found(collection)) == 2
    unwritable()
    with caplog.at_level(logging.WARNING):
        collection.upsert(rows)  # most rows are read anew, so that the saved snapshot would be mapped
    assert "the index is not saved" in caplog.text
    assert found(collection) == {row["id"]: row["text"] for row in rows}


def test_a_full_disk_under_the_index_is_told_with_what_to_do(model, tmp_path, full_disk, caplog):
    made = Collection.create(tmp_path / "c", model, lexical=True)
    made.upsert([{"id": f"d{i}", "text": f"第{i}条"} for i in range(100)])
    with full_disk(12_000):
        assert len(found(made)) == 50
    folder = tmp_path / "c" / "index"
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{folder}: the disk is full (File too large), so the index is not saved")
    assert line.endswith("free some space, or have it in a folder on another disk (index_dir, --index-dir)")
    assert list(folder.iterdir()) == []
    assert len(found(Collection.open(tmp_path / "c", model=model))) == 50
    assert [entry.name for entry in folder.iterdir()] == [f"version-{made.version}"]


def test_two_collections_with_one_index_folder_have_their_own_rows(model, tmp_path):
    made = [Collection.create(tmp_path / name, model, index_dir=tmp_path / "index") for name in "ab"]
    expected = []
    for name, one in zip("ab", made, strict=True):
        texts = {f"{name}{i}": f"{name}的第{i}条" for i in range(8)}
        one.upsert([{"id": key, "text": text} for key, text in texts.items()])
        found(one)  # the second one does not find a place for its version
        expected.append(texts)
    made[1].upsert([{"id": "b8", "text": "新"}])
    assert found(made[1]) == expected[1] | {"b8": "新"}
    again = Collection.open(tmp_path / "b", model=model, index_dir=tmp_path / "index")
    assert found(again) == expected[1] | {"b8": "新"}
    assert found(made[0]) == expected[0]


def test_what_killed_processes_left_is_removed_and_what_others_write_is_not(collection):
    folder = Path(collection.info()["index_folder"])
    for name, age in ((".new-a", 10**6), (".old-1-b", 10**6), (".new-now", 0)):
        (folder / name).mkdir(parents=True)
        stamp = (folder / name).stat().st_mtime - age
        os.utime(folder / name, (stamp, stamp))
    collection.search("x")
    assert sorted(entry.name for entry in folder.iterdir()) == [".new-now", f"version-{collection.version}"]


def test_verify_finds_texts_of_the_index_that_are_not_the_tables(collection, model):
    collection.search("x")
    for file in Path(collection.info()["index_folder"]).rglob("rows-*.arrow"):
        file.write_bytes(file.read_bytes().replace("第3条".encode(), "第8条".encode()))
    problems = Collection.open(collection.uri, model=model).verify().problems
    assert problems == ["document 'd3', chunk 0: the index has another row"]


def test_a_table_that_was_restored_from_a_backup_is_not_searched_with_the_index_of_before(model, tmp_path):
    made = Collection.create(tmp_path / "c", model)
    made.upsert([{"id": "a", "text": "一"}])
    shutil.copytree(tmp_path / "c" / "documents.lance", tmp_path / "backup")
    made.upsert([{"id": "a", "text": "二"}])
    assert found(made) == {"a": "二"}
    shutil.rmtree(tmp_path / "c" / "documents.lance")
    shutil.move(tmp_path / "backup", tmp_path / "c" / "documents.lance")
    Collection.open(tmp_path / "c", model=model).upsert([{"id": "a", "text": "三"}])
    for _ in range(2):
        restored = Collection.open(tmp_path / "c", model=model)
        assert found(restored) == {"a": "三"}
        assert restored.verify().ok


def test_a_damaged_snapshot_is_made_again_once(collection, model, caplog):
    found(collection)
    for file in Path(collection.info()["index_folder"]).rglob("rows-*.arrow"):
        os.truncate(file, 100)
    for _ in range(3):
        assert len(found(Collection.open(collection.uri, model=model))) == 10
    assert caplog.text.count("is rebuilt") == 1
