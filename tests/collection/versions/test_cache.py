import logging

import pytest

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
