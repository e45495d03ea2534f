import os
import subprocess

import lance
import pyarrow as pa
import pytest

from care_accel import CareError, Collection
from care_accel.collection.storage.lance_errors import WriteConflict, translated


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "LanceError(IO): No space left on device (os error 28), /home/x/rust/lance/src/a.rs:3:4",
            "the disk is full",
        ),
        (
            "Disk quota exceeded (os error 122)",
            "the disk is full (Disk quota exceeded); what was committed",
        ),
        ("File too large (os error 27)", "the disk is full (File too large); what was committed"),
        ("Permission denied (os error 13)", "not writable"),
        ("unsupported feature flags 64, please upgrade", "upgrade pylance"),
        ("Dataset at path x was not found", "there is no collection"),
        ("Not found: tmp/c/documents.lance/_versions", "there is no collection"),
        (
            "External error: Not found: /tmp/c/documents.lance/_indices/5/page_lookup.lance",
            "removed by compact",
        ),
        ("something else, /home/x/rust/lance/src/a.rs:3:4", "c: something else"),
    ],
)
def test_what_lance_says_becomes_one_line(message, said):
    text = str(translated("c", OSError(message)))
    assert said in text
    assert ".rs:" not in text


@pytest.mark.parametrize(
    "message",
    [
        "Too many concurrent writers. Attempted 50 retries., /home/x/rust/lance/src/dataset/write/retry.rs:103:9",
        "Too many concurrent writers. Attempted 1 times, but failed on retry_timeout of 300.000 seconds.",
        "Commit conflict for version 7: concurrent transaction",
    ],
)
def test_a_conflict_with_other_writers_is_an_error_of_its_own(message):
    error = translated("c", OSError(message))
    assert isinstance(error, WriteConflict)
    assert str(error) == "c: other writers changed the same documents meanwhile; try again"
    assert not isinstance(translated("c", OSError("something else")), WriteConflict)


def test_a_table_of_others_and_a_newer_format_are_refused(tmp_path, collection):
    lance.write_dataset(pa.table({"a": [1]}), tmp_path / "other" / "documents.lance")
    with pytest.raises(CareError, match="is not a collection"):
        Collection.open(tmp_path / "other")
    table = lance.dataset(f"{collection.uri}/documents.lance")
    newer = {
        key.decode(): value.decode().replace('"format": 1', '"format": 99')
        for key, value in table.schema.metadata.items()
    }
    table.replace_schema_metadata(newer)
    with pytest.raises(CareError, match="format 99 of the collection is unknown; this release reads 1"):
        Collection.open(collection.uri)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte and a half."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", folder], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # files of it are still mapped


def test_a_full_disk_is_told_and_what_was_committed_is_whole(small_disk, model):
    made = Collection.create(small_disk / "c", model)
    made.upsert([{"id": "first", "text": "第一"}])
    made.search("x")
    with pytest.raises(CareError, match="the disk is full") as raised:
        made.upsert([{"id": f"d{i}", "text": f"第{i}", "scan": os.urandom(12_000).hex()} for i in range(150)])
    assert "\n" not in str(raised.value)
    again = Collection.open(small_disk / "c", index_dir=small_disk.parent / "index")
    assert again.ids() == ["first"]
    assert again.verify().ok


def test_a_reader_of_a_removed_version_is_told_to_refresh(collection):
    reader = Collection.open(collection.uri)
    assert len(reader.search("高血压", filter="year > 0")) == 10
    collection.upsert([{"id": "d0", "text": "改", "year": 2000}])
    collection.compact(keep_days=0)
    assert len(reader.search("高血压")) == 10
    for read in (lambda: reader.search("高血压", filter="year > 2001"), lambda: reader.get("d1")):
        with pytest.raises(CareError, match="removed by compact meanwhile; refresh"):
            read()
    reader.refresh()
    assert len(reader.search("高血压", filter="year > 2001")) == 8
