"""Encoding by parts, in this process: the same collection as an upsert makes, whatever was killed."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from cluster_corpus import content, document, require_equal, write_lines

from care_accel import CareError, Collection, DualEncoder
from care_accel.cluster import Reading, encode_corpus
from care_accel.cluster.part import PartEncoder
from care_accel.collection.sources import read_documents
from care_accel.collection.storage.driver_lock import driver_lock
from care_accel.collection.storage.orphans import remove_orphans

READING = Reading(fields=("year",))


class Killed(BaseException):
    pass


def encode(corpus, collection, part_tokens=160, **options):
    return encode_corpus(
        corpus,
        collection,
        **{"cluster": "none", "reading": READING, "show": lambda line: None, "part_tokens": part_tokens}
        | options,
    )


@pytest.fixture
def pair(model, tmp_path):
    """Return a collection, and another one as the truth."""
    return Collection.create(tmp_path / "parts", model), Collection.create(tmp_path / "alone", model)


@pytest.fixture
def encoded(monkeypatch):
    """Return the numbers of the parts that were encoded."""
    numbers = []
    encode = PartEncoder.encode

    def noted(self, part):
        if self._run.record(part.number) is None:
            numbers.append(part.number)
        return encode(self, part)

    monkeypatch.setattr(PartEncoder, "encode", noted)
    return numbers


@pytest.fixture
def kill_at(monkeypatch):
    """Return a function that has a call of an object's method end the run, before or after it."""

    def at(owner, name, call, *, after):
        method = getattr(owner, name)
        calls = SimpleNamespace(left=call)

        def killed(*arguments, **options):
            calls.left -= 1
            if calls.left == 0 and not after:
                raise Killed
            made = method(*arguments, **options)
            if calls.left == 0:
                raise Killed
            return made

        monkeypatch.setattr(owner, name, killed)
        return lambda: monkeypatch.setattr(owner, name, method)

    return at


def test_parts_make_the_table_that_an_upsert_makes(corpus, pair):
    parts, alone = pair
    done = encode(corpus, parts)
    alone.upsert(read_documents(corpus, fields=["year"]))
    require_equal(content(parts.uri), content(alone.uri))
    assert done.parts > 3
    assert done.commits < done.parts
    assert (done.read, done.set_aside, len(parts)) == (31, {}, 30)
    assert parts.verify(encode=3).ok


def test_chunks_are_those_of_an_upsert(model, corpus, tmp_path):
    parts, alone = (
        Collection.create(tmp_path / name, model, chunk_tokens=8, chunk_overlap=2)
        for name in ("parts", "alone")
    )
    encode(corpus, parts)
    alone.upsert(read_documents(corpus, fields=["year"]))
    require_equal(content(parts.uri), content(alone.uri))
    assert parts.verify(encode=3).ok


def test_what_is_unchanged_is_not_encoded_again(corpus, pair, tmp_path):
    parts, alone = pair
    encode(corpus, parts)
    version = parts.version
    again = encode(
        corpus, parts
    )  # the first form of the document that comes twice is encoded, and replaced again
    assert (again.new, again.chunks, again.same, parts.version) == (0, 1, 30, version + again.commits)
    rows = [document(number, draft=number // 15) for number in range(20)]
    changed = write_lines(tmp_path / "c.jsonl", rows)
    done = encode(changed, parts)
    alone.upsert(read_documents([*corpus, changed], fields=["year"]))
    require_equal(content(parts.uri), content(alone.uri))
    assert (done.changed, done.same) == (6, 14)


def test_only_new_fields_keep_the_vectors(corpus, pair, tmp_path):
    parts, _ = pair
    encode(corpus, parts)
    rows = [document(number) | {"year": 1} for number in range(4, 9)]
    done = encode(write_lines(tmp_path / "c.jsonl", rows), parts)
    assert (done.changed, done.chunks) == (5, 0)
    assert [row["year"] for row in parts.get(["d4", "d9"])] == [1, 2009]


def test_a_later_part_that_has_a_document_as_it_was_has_the_last_word(pair, tmp_path):
    """The earlier part changes it, and the later one finds it unchanged against the version before both."""
    parts, alone = pair
    for collection in pair:
        collection.upsert([document(number) for number in range(9)])
    first = [document(number, draft=1) for number in range(9)]
    file = write_lines(tmp_path / "c.jsonl", [*first, document(4), document(5, draft=2)])
    encode(file, parts, part_tokens=1)
    alone.upsert(read_documents(file, fields=["year"]))
    require_equal(content(parts.uri), content(alone.uri))
    assert "第0稿" in parts.get(["d4"])[0]["text"]


@pytest.mark.parametrize(
    ("owner", "name", "call", "after"),
    [
        ("care_accel.collection.storage.fragments", "write", 2, True),
        ("care_accel.cluster.run_folder.RunFolder", "claim", 2, False),
        ("care_accel.cluster.run_folder.RunFolder", "claim", 2, True),
        ("care_accel.collection.storage.fragments", "commit", 1, False),
        ("care_accel.collection.storage.fragments", "commit", 1, True),
        ("care_accel.cluster.run_folder.RunFolder", "end", 1, False),
    ],
)
def test_a_run_that_is_killed_goes_on_and_encodes_only_what_was_not_done(
    corpus, pair, encoded, kill_at, owner, name, call, after, monkeypatch
):
    from importlib import import_module

    parts, alone = pair
    module, _, kind = owner.rpartition(".")
    target = getattr(import_module(module), kind) if kind[0].isupper() else import_module(owner)
    alone.upsert(read_documents(corpus, fields=["year"]))
    restore = kill_at(target, name, call, after=after)
    # A process that is killed commits nothing at its end.
    from care_accel.cluster.folding import Folder

    finish = Folder.finish
    if name in ("write", "claim"):
        monkeypatch.setattr(Folder, "finish", lambda self: None)
    with pytest.raises(Killed):
        encode(corpus, parts)
    restore()
    monkeypatch.setattr(Folder, "finish", finish)
    done = encode(corpus, parts)
    require_equal(content(parts.uri), content(alone.uri))
    assert len(encoded) <= len(set(encoded)) + 1
    assert done.read == 31


def test_an_unfinished_run_refuses_another_plan_unless_it_is_left(corpus, pair, encoded, kill_at):
    parts, alone = pair
    restore = kill_at(PartEncoder, "encode", 2, after=False)
    with pytest.raises(Killed):
        encode(corpus, parts)
    restore()
    with pytest.raises(CareError, match="an unfinished run has another plan"):
        encode(corpus[:1], parts)
    encode(corpus[:1], parts, new_plan=True)
    alone.upsert(read_documents(corpus[:1], fields=["year"]))
    known = content(alone.uri)
    there = content(parts.uri)
    assert set(known["id"].to_pylist()) <= set(there["id"].to_pylist())
    assert parts.verify().ok


def test_a_run_goes_on_with_another_runtime_only_where_that_is_allowed(corpus, pair, kill_at):
    parts, _ = pair
    restore = kill_at(PartEncoder, "encode", 2, after=False)
    with pytest.raises(Killed):
        encode(corpus, parts)
    restore()
    other = DualEncoder.from_pretrained("care-mini", dtype="int8")
    with pytest.raises(
        CareError, match=r"native/int8 of this worker differs from native/float32.*--mixed-"
    ) as told:
        encode(corpus, parts.uri, model=other)
    assert "\n" not in str(told.value)
    encode(corpus, parts.uri, model=other, mixed_runtimes=True)
    parts.refresh()
    assert len(parts) == 30


def test_a_second_driver_is_refused_in_one_line(corpus, pair):
    parts, _ = pair
    with (
        driver_lock(str(parts._cache.folder.parent)),
        pytest.raises(CareError, match=r"process \d+ on .* is encoding"),
    ):
        encode(corpus, parts)


def test_a_bad_row_ends_the_run_and_is_left_out_where_that_is_wanted(corpus, pair):
    parts, _ = pair
    with corpus[0].open("a", encoding="utf-8") as stream:
        stream.write('{"id": "bad"}\n')
    with pytest.raises(CareError, match=r"a\.jsonl, line 21: 'text' is missing"):
        encode(corpus, parts)
    done = encode(corpus, parts, reading=Reading(fields=("year",), skip_bad=True), new_plan=True)
    (skipped,) = done.skipped
    assert skipped["place"].endswith("a.jsonl, line 21")
    assert len(parts) == 30


def test_a_useless_vector_sets_its_part_aside_and_names_the_document(corpus, pair, monkeypatch, model):
    parts, _ = pair
    encoder = model.encoder("document")
    whole = type(encoder).encode

    def broken(self, texts, **options):
        vectors = whole(self, texts, **options)
        vectors[[i for i, text in enumerate(texts) if "第7条" in text]] = 0
        return vectors

    monkeypatch.setattr(type(encoder), "encode", broken)
    done = encode(corpus, parts)
    (reason,) = done.set_aside.values()
    assert "the vector of document 'd7' is zero or not finite" in reason
    assert 0 < len(parts) < 30
    assert np.all(np.any(np.stack(content(parts.uri)["_vector"].to_pylist()), axis=1))
    monkeypatch.undo()
    assert encode(corpus, parts).set_aside == {}
    assert len(parts) == 30


def test_a_field_that_appears_late_is_refused_with_what_to_do(pair, tmp_path, monkeypatch):
    parts, _ = pair
    rows = [document(number) for number in range(5)]
    file = write_lines(tmp_path / "c.jsonl", [*rows, document(9) | {"later": "x"}])
    from care_accel.cluster import encode as module

    monkeypatch.setattr(module, "first_types", lambda reading, parts, table: _types_of(table, year=5))
    with pytest.raises(CareError, match=r"no row before it has the field 'later'.*--fields later:str"):
        encode(file, parts, reading=Reading(fields=("*",)))


def _types_of(table, **values):
    from care_accel.collection.storage.rows import FieldTypes

    types = FieldTypes(table.fields)
    types.checked(values, "here")
    return types


def test_orphaned_files_are_removed_and_others_stay(corpus, pair, kill_at):
    from care_accel.cluster.run_folder import RunFolder

    parts, alone = pair
    restore = kill_at(RunFolder, "claim", 2, after=False)
    with pytest.raises(Killed):
        encode(corpus, parts)
    restore()
    table = parts._state.table.latest()
    assert remove_orphans(table, older_than=3300).young == 1
    found = remove_orphans(table, older_than=0)
    assert (found.removed, found.young, found.bytes > 0) == (1, 0, True)
    encode(corpus, parts)
    alone.upsert(read_documents(corpus, fields=["year"]))
    require_equal(content(parts.uri), content(alone.uri))
    assert remove_orphans(table, older_than=0).removed == 0


def test_events_are_logged_for_machines(corpus, pair, tmp_path):
    done = encode(corpus, pair[0], json_log=tmp_path / "log.jsonl")
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    names = [event["event"] for event in events]
    assert (names[0], names[-1], names.count("part")) == ("plan", "end", done.parts)
    assert sum(event.get("documents", 0) for event in events) == 31


def test_without_the_extra_one_line_names_it(corpus, pair, monkeypatch):
    monkeypatch.setattr("care_accel.cluster.ray_engine.find_spec", lambda name: None)
    with pytest.raises(CareError, match=r"needs the package ray: pip install 'care-accel\[cluster\]'"):
        encode(corpus, pair[0], cluster="auto")


@pytest.mark.parametrize("shared", [False, True], ids=["new", "replaced"])
def test_another_writer_between_comparison_and_commit_makes_no_document_twice(
    corpus, pair, monkeypatch, shared
):
    """It writes a document of the run at the worst moment: new, or one whose row the run deletes."""
    from care_accel.collection.storage import fragments

    parts, alone = pair
    other = Collection.open(parts.uri, model=parts.model)
    if shared:
        parts.upsert([document(7, draft=5)])
    commit = fragments.commit
    written = []

    def late(*arguments):
        if not written:
            written.append(other.upsert([document(7, draft=9)]))
        return commit(*arguments)

    monkeypatch.setattr(fragments, "commit", late)
    encode(corpus, parts)
    alone.upsert(read_documents(corpus, fields=["year"]))
    require_equal(content(parts.uri), content(alone.uri))
    assert parts.verify().ok
