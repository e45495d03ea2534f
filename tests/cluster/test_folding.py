"""Folding in many commits beside the encoding: whatever ends the run between them, the table is that of an upsert."""

import threading
from importlib import import_module

import pytest
from cluster_corpus import content, document, require_equal, write_lines

from care_accel import CareError, Collection
from care_accel.cluster import Reading, encode_corpus
from care_accel.cluster.part import PartEncoder
from care_accel.collection.sources import read_documents
from care_accel.collection.storage import fragments
from care_accel.collection.storage.driver_lock import driver_lock
from care_accel.collection.storage.rows import ID

# The package has a function of the same name.
folding = import_module("care_accel.cluster.folding")


class Killed(BaseException):
    pass


@pytest.fixture
def pair(model, corpus, tmp_path, monkeypatch):
    """Return a collection, and another one as the truth; a commit takes five rows, and ids are looked for in seven."""
    monkeypatch.setattr(folding, "_LEAST_ROWS", 5)
    monkeypatch.setattr(folding, "_SHARE", 0.0)
    monkeypatch.setattr(folding, "_LOOKED_AT", 7)
    made, alone = (Collection.create(tmp_path / name, model) for name in ("parts", "alone"))
    alone.upsert(read_documents(corpus, fields=["year"]))
    return made, alone


def encode(corpus, collection, **options):
    given = {"reading": Reading(fields=("year",)), "part_tokens": 100, "show": lambda line: None}
    return encode_corpus(corpus, collection, cluster="none", **given | options)


def commits_under_way():
    return [thread for thread in threading.enumerate() if thread.name == "commits"]


def test_many_commits_beside_the_encoding_make_the_table_of_an_upsert(corpus, pair):
    made, alone = pair
    done = encode(corpus, made)
    require_equal(content(made.uri), content(alone.uri))
    assert done.commits >= 4
    assert made.verify(encode=3).ok
    assert commits_under_way() == []


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", [1, 3])
def test_a_run_that_ends_at_one_of_many_commits_goes_on(corpus, pair, monkeypatch, call, after):
    made, alone = pair
    commit, calls = fragments.commit, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == call and not after:
            raise Killed
        found = commit(*arguments)
        if len(calls) == call:
            raise Killed
        return found

    monkeypatch.setattr(fragments, "commit", killed)
    with pytest.raises(Killed):
        encode(corpus, made)
    assert len(calls) == call  # nothing was committed after that
    monkeypatch.setattr(fragments, "commit", commit)
    done = encode(corpus, made)
    require_equal(content(made.uri), content(alone.uri))
    assert done.read == 31
    assert made.verify().ok


def test_an_error_of_a_commit_ends_the_run_and_gives_the_lock_back(corpus, pair, monkeypatch):
    made, alone = pair

    def full(*arguments):
        raise CareError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(fragments, "commit", full)
        with pytest.raises(CareError, match="the disk is full"):
            encode(corpus, made)
    assert commits_under_way() == []
    with driver_lock(made.uri):
        pass
    encode(corpus, made)
    require_equal(content(made.uri), content(alone.uri))


def test_an_interrupt_leaves_no_thread_and_no_lock_behind(corpus, pair, monkeypatch):
    made, alone = pair
    whole, calls = PartEncoder.encode, []

    def interrupted(self, part):
        calls.append(part)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(PartEncoder, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            encode(corpus, made)
    assert commits_under_way() == []
    with driver_lock(made.uri):
        pass
    done = encode(corpus, made)
    assert done.parts_before == 2
    require_equal(content(made.uri), content(alone.uri))


@pytest.mark.parametrize("least", [1, 4, 7, 1000])
def test_places_are_those_of_all_rows_whatever_is_read_at_once(model, tmp_path, least):
    made = Collection.create(tmp_path / "made", model)
    file = write_lines(tmp_path / "rows.jsonl", [document(number) for number in range(10)])
    encode(file, made, part_tokens=60)
    made.delete(["d3"])
    table = made._state.table.latest()
    batches = list(fragments.places(table, [ID], least))
    assert all(len(batch) >= least for batch, _, _ in batches[:-1])
    found = {
        name: (number, place)
        for batch, fragment, offset in batches
        for name, number, place in zip(
            batch[ID].to_pylist(), fragment.to_pylist(), offset.to_pylist(), strict=True
        )
    }
    assert set(found) == {f"d{number}" for number in range(10)} - {"d3"}
    number, place = found["d7"]
    fragments.commit(table, [], {number: [place]}, "")
    made.refresh()
    assert set(made.ids()) == set(found) - {"d7"}
