import datetime
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from care_accel import CareError, Collection, DualEncoder, Retriever
from care_accel.collection import writing


def ids(hits):
    return [hit.id for hit in hits]


def test_hits_are_those_of_a_retriever_over_the_same_texts(collection, model, rows):
    retriever = Retriever.from_documents(model, [row["text"] for row in rows])
    for query in ("高血压怎么办", "孩子发烧", "鼻炎"):
        expected = [(rows[hit.id]["id"], hit.score) for hit in retriever.search(query, k=4)]
        assert [(hit.id, hit.score) for hit in collection.search(query, k=4)] == expected


def test_a_hit_has_the_users_id_and_row(collection, rows):
    hit = collection.search("高血压", k=1)[0]
    assert hit.id == "d0"
    assert hit.document == rows[0] | {"title": ""}
    assert hit.span is None


def test_a_list_of_queries_gives_a_list_of_hits_each(collection):
    found = collection.search(["高血压", "骨折"], k=2)
    assert [ids(hits)[0] for hits in found] == ["d0", "d5"]
    assert collection.search([], k=2) == []


def test_no_more_hits_than_documents(collection, rows):
    assert len(collection.search("高血压", k=100)) == len(rows)


def test_an_empty_collection_has_no_hits(model, tmp_path):
    empty = Collection.create(tmp_path / "c", model)
    assert empty.search("高血压") == []
    assert len(empty) == 0
    assert empty.verify().ok
    empty.compact()
    assert empty.upsert([]).read == 0


def test_only_what_is_new_or_changed_is_encoded(collection, rows):
    again = collection.upsert(rows)
    assert (again.new, again.changed, again.same, again.chunks) == (0, 0, len(rows), 0)
    rows[0]["year"] = 1990  # a field is not encoded
    rows[1]["text"] = "别的内容"
    done = collection.upsert([*rows, {"id": "new", "text": "新的"}])
    assert (done.new, done.changed, done.same, done.chunks) == (1, 2, len(rows) - 2, 2)
    assert collection.get("d0")["year"] == 1990


def test_what_has_not_changed_makes_no_version(collection, rows):
    version = collection.version
    collection.upsert(rows)
    assert collection.version == version


def test_an_update_is_found_and_its_old_form_is_not(collection):
    collection.search("高血压")
    collection.upsert([{"id": "d0", "text": "阑尾炎手术"}])
    assert ids(collection.search("阑尾炎", k=1)) == ["d0"]
    assert collection.search("高血压怎么治疗，第0条", k=10)[0].document["text"] != "高血压怎么治疗，第0条"
    assert collection.get("d0")["department"] is None


def test_deleted_documents_are_not_found(collection):
    assert collection.delete(["d0", "unknown", "d0"]) == 1
    assert "d0" not in ids(collection.search("高血压", k=10))
    assert collection.delete(filter="year >= 2008") == 2
    assert len(collection) == 7
    assert collection.get(["d0", "d1"])[0] is None
    assert collection.delete("d1") == 1


def test_deleting_nothing_makes_no_version(collection):
    version = collection.version
    assert collection.delete(["unknown"]) == collection.delete(filter="year > 3000") == 0
    assert collection.version == version


def test_integer_ids_become_their_digits(collection):
    collection.upsert([{"id": 7, "text": "七"}, {"id": np.int64(8), "text": "八"}])
    assert collection.get([7, "8"])[0]["id"] == "7"
    assert collection.delete([7]) == 1


@pytest.mark.parametrize("identifier", ["a'b", 'say "x"', "换行\n", "%", "表情😀", "a" * 300, "\\", " "])
def test_any_text_is_an_id(collection, identifier):
    collection.upsert([{"id": identifier, "text": "特别"}])
    collection.upsert([{"id": identifier, "text": "特别的"}])
    assert collection.get(identifier)["text"] == "特别的"
    assert collection.delete([identifier]) == 1


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_a_time_between_commits_that_is_none_is_refused(collection, seconds):
    with pytest.raises(CareError, match=r"commit_seconds is .*; it must be 0 or more"):
        collection.upsert([{"id": "x", "text": "一"}], commit_seconds=seconds)
    assert collection.get("x") is None


def test_rows_may_come_from_an_iterator_or_an_arrow_table(collection, rows):
    assert collection.upsert(iter([{"id": "i", "text": "迭代"}])).new == 1
    table = pa.table({"id": [1, 2], "text": ["一", "二"], "year": pa.array([1, None], pa.int32())})
    assert collection.upsert(table).new == 2
    assert collection.upsert(table.to_batches()[0]).same == 2
    assert collection.get("2")["year"] is None


BAD = [
    ({"text": "x"}, "the id is missing"),
    ({"id": None, "text": "x"}, "the id is missing"),
    ({"id": ["a"], "text": "x"}, "the id is a list"),
    ({"id": True, "text": "x"}, "the id is a bool"),
    ({"id": 1.5, "text": "x"}, "the id is a float"),
    ({"id": "", "text": "x"}, "the id is empty"),
    ({"id": "a"}, "the text is missing"),
    ({"id": "a", "text": None}, "the text is missing"),
    ({"id": "a", "text": 3}, "the text is a int"),
    ({"id": "a", "text": "x", "title": []}, "the title is a list"),
    (
        {"id": "a", "text": "x", "year": "2020"},
        "'year' is a text .'2020'., but in this collection it is an integer",
    ),
    ({"id": "a", "text": "x", "year": 2020.5}, "'year' is a number"),
    ({"id": "a", "text": "x", "f": {}}, "is a dict; a field is"),
    ({"id": "a", "text": "x", "f": [1]}, "is a list; a field is"),
    ({"id": "a", "text": "x", "f": float("nan")}, "finite"),
    ({"id": "a", "text": "x", "f": 2**63}, "beyond 64 bits"),
    ({"id": "a", "text": "x", "_f": 1}, "begins with an underscore"),
    ({"id": "a", "text": "x", "f.g": 1}, "cannot be used in filters"),
    ("text", "is a str; it must be a dict"),
]


@pytest.mark.parametrize(("row", "problem"), BAD)
def test_a_wrong_row_is_named_and_rows_before_it_are_kept(collection, row, problem):
    with pytest.raises(CareError, match=f"^row 1.*{problem}"):
        collection.upsert([{"id": "before", "text": "之前"}, row, {"id": "after", "text": "之后"}])
    assert collection.get("before")["text"] == "之前"
    assert collection.get("after") is None


@pytest.mark.parametrize("wrong", ["text", {"id": "a"}, 3, None])
def test_rows_that_are_no_rows_are_refused(collection, wrong):
    with pytest.raises(CareError, match="rows are a"):
        collection.upsert(wrong)


def test_fields_keep_their_types(collection):
    row = {
        "id": "t",
        "text": "类型",
        "score": 0.5,
        "open": True,
        "tags": ["a", "b"],
        "day": datetime.date(2020, 1, 2),
        "at": datetime.datetime(2020, 1, 2, 3, 4, 5),
        "科室": "儿科",
    }
    collection.upsert([row])
    assert collection.get("t") == row | {"title": "", "department": None, "year": None}
    assert ids(
        collection.search("类型", filter="`科室` = '儿科' AND open AND score < 1 AND day > date '2019-01-01'")
    ) == ["t"]
    assert ids(collection.search("类型", filter="array_has(tags, 'b')")) == ["t"]
    collection.upsert([{"id": "u", "text": "整数", "score": 2}])
    assert collection.get("u")["score"] == 2.0


def test_declared_fields_have_their_types_before_the_first_row(model, tmp_path):
    made = Collection.create(tmp_path / "c", model, fields={"year": "int", "tags": "texts"})
    with pytest.raises(CareError, match="'year' is a text"):
        made.upsert([{"id": "a", "text": "x", "year": "2020"}])
    assert made.search("x", filter="year > 3") == []
    for fields, problem in [
        ({"year": "number"}, "the types are"),
        ({"id": "text"}, "part of every document"),
    ]:
        with pytest.raises(CareError, match=problem):
            Collection.create(tmp_path / "d", model, fields=fields)


def test_lone_surrogates_are_replaced(collection):
    collection.upsert([{"id": "s\ud800", "text": "坏\udfff字", "department": "\ud800"}])
    assert collection.get("s\ufffd")["text"] == "坏\ufffd字"


def test_equal_scores_are_ordered_by_id_whenever_they_were_written(model, tmp_path):
    made = Collection.create(tmp_path / "c", model)
    names = ["b", "a", "d", "c", "e", "10", "9"]
    for name in names:
        made.upsert([{"id": name, "text": "同样的话"}])
        made.search("x")  # each becomes a part of the index
    made.upsert([{"id": "b", "text": "变了"}])
    made.upsert([{"id": "b", "text": "同样的话"}])
    assert ids(made.search("同样", k=4)) == sorted(names)[:4]
    assert (
        ids(Collection.open(tmp_path / "c", index_dir=tmp_path / "new").search("同样", k=4))
        == sorted(names)[:4]
    )


def test_what_others_write_is_seen_after_refresh(collection, tmp_path):
    other = Collection.open(collection.uri)
    assert ids(other.search("高血压", k=1)) == ["d0"]
    collection.delete(["d0"])
    assert ids(other.search("高血压", k=1)) == ["d0"]
    assert other.refresh()
    assert not other.refresh()
    assert "d0" not in ids(other.search("高血压", k=1))


def test_an_upsert_that_changes_nothing_shows_what_others_wrote(collection, rows):
    other = Collection.open(collection.uri)
    other.search("x")
    collection.upsert([{"id": "new", "text": "独一无二"}])
    other.upsert(rows)
    assert other.version == collection.version
    assert ids(other.search("独一无二", k=1)) == ["new"]


def test_an_earlier_version_can_be_read_and_not_written(collection):
    version = collection.version
    collection.delete(["d0"])
    old = Collection.open(collection.uri, version=version)
    assert ids(old.search("高血压", k=1)) == ["d0"]
    assert not old.refresh()
    with pytest.raises(CareError, match="can only be read"):
        old.delete(["d1"])
    with pytest.raises(CareError, match="version 99 does not exist"):
        Collection.open(collection.uri, version=99)
    assert [entry["version"] for entry in collection.versions()][-1] == collection.version


def test_another_collection_in_its_place_is_not_taken_for_its_next_version(collection, model, rows):
    """Row ids and versions of both begin at 0: rows of the old one would pass for those of the new one."""
    collection.search("x")
    shutil.rmtree(collection.uri)
    other = Collection.create(collection.uri, model)
    other.upsert([{"id": f"o{i}", "text": f"另{i}"} for i in range(10)])
    for number in range(3):  # more versions than the old one has
        other.upsert([{"id": "o", "text": f"另一条，{number}"}])
    for change in (collection.refresh, lambda: collection.upsert(rows), lambda: collection.delete("o")):
        with pytest.raises(CareError, match="another collection has taken the place"):
            change()
    assert len(Collection.open(collection.uri)) == 11


def test_compacting_drops_what_was_deleted_and_old_versions(collection):
    collection.search("x")
    collection.delete(filter="year < 2004")
    before = [(hit.id, hit.score) for hit in collection.search("高血压", k=10)]
    assert collection.info()["index_removed"] == 4
    collection.compact(keep_days=0)
    assert [(hit.id, hit.score) for hit in collection.search("高血压", k=10)] == before
    assert collection.info()["index_removed"] == 0
    assert len(collection.versions()) == 1
    assert collection.verify(encode=3).ok
    with pytest.raises(CareError, match="keep_days"):
        collection.compact(keep_days=-1)


def test_the_index_may_be_deleted_and_costs_only_what_has_changed(collection):
    expected = [(hit.id, hit.score) for hit in collection.search("高血压", k=10)]
    opened = Collection.open(collection.uri)
    opened.search("x")
    assert opened.searcher().snapshot.read == 0
    collection.upsert([{"id": "d1", "text": "改"}, {"id": "n", "text": "新"}])
    opened.refresh()
    assert opened.searcher().snapshot.read == 2
    collection.delete("n")
    shutil.rmtree(collection.info()["index_folder"])
    rebuilt = Collection.open(collection.uri)
    assert rebuilt.searcher().snapshot.read == 0 or len(rebuilt) == 10
    assert set(expected) - {("d1", dict(expected)["d1"])} <= {
        (hit.id, hit.score) for hit in rebuilt.search("高血压", k=10)
    }
    assert rebuilt.verify().ok


def test_a_damaged_index_is_made_again(collection, caplog):
    collection.search("x")
    folder = collection.info()["index_folder"]
    for file in Path(folder).rglob("*.npy"):
        file.write_bytes(b"broken")
    again = Collection.open(collection.uri)
    assert ids(again.search("高血压", k=1)) == ["d0"]
    assert "is rebuilt" in caplog.text


@pytest.mark.parametrize("there", [False, True])
def test_only_its_owner_can_read_a_collection_and_its_index(model, tmp_path, there):
    place, index = tmp_path / "c", tmp_path / "index"
    if there:
        for folder in (place, index):
            folder.mkdir(mode=0o755)
    made = Collection.create(place, model, index_dir=index)
    made.upsert([{"id": "a", "text": "高血压"}])
    made.search("x")
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    # A folder that the user has made for indexes keeps its rights: others may have theirs there.
    assert stat.S_IMODE(index.stat().st_mode) == (0o755 if there else 0o700)
    (version,) = index.iterdir()
    assert stat.S_IMODE(version.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in version.rglob("*.*") if file.is_file()} == {0o600}


def test_the_model_is_known_again_and_another_is_refused(collection, model, tmp_path):
    assert Collection.open(collection.uri).model.revision("document") == model.revision("document")
    with pytest.raises(CareError, match="width 384, those of care-mini 128"):
        Collection.open(collection.uri, model=DualEncoder.from_pretrained("care-mini", width=128))
    other = DualEncoder.from_pretrained("care-mini", max_tokens=8)
    with pytest.raises(CareError, match=r"made by document encoder sha256:.* but care-mini has sha256:"):
        Collection.open(collection.uri, model=other)


def test_a_narrower_model_is_known_again(tmp_path):
    made = Collection.create(tmp_path / "c", DualEncoder.from_pretrained("care-mini", width=64))
    made.upsert([{"id": "a", "text": "高血压"}])
    assert Collection.open(tmp_path / "c").search("高血压")[0].score == made.search("高血压")[0].score


def test_a_folder_that_is_no_collection_is_refused(tmp_path, model, collection):
    with pytest.raises(CareError, match="no such folder"):
        Collection.open(tmp_path / "none")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file.txt").touch()
    with pytest.raises(CareError, match="is not a collection"):
        Collection.open(tmp_path / "other")
    with pytest.raises(CareError, match=r"contains file\.txt"):
        Collection.create(tmp_path / "other", model)
    with pytest.raises(CareError, match="is a collection already"):
        Collection.create(collection.uri, model)


@pytest.mark.parametrize("options", [{}, {"ids": ["a"], "filter": "true"}])
def test_delete_takes_ids_or_a_filter(collection, options):
    with pytest.raises(CareError, match="give one of them"):
        collection.delete(**options)


def test_timings_and_vectors(collection, model):
    hits, timings = collection.search("高血压", k=2, return_timings=True)
    assert min(timings) > 0
    vectors = model.encode_query(["高血压"])
    assert ids(collection.search_vectors(vectors, k=2)[0]) == ids(hits)


@pytest.mark.parametrize("query", ["高血压怎么办", "第3条", "zzz"])
def test_with_a_lexical_index_hits_are_those_of_a_hybrid_retriever(model, rows, tmp_path, query):
    made = Collection.create(tmp_path / "c", model, lexical=True)
    made.upsert(rows)
    retriever = Retriever.from_documents(model, [row["text"] for row in rows], lexical=True)
    expected = [(rows[hit.id]["id"], pytest.approx(hit.score)) for hit in retriever.search(query, k=4)]
    assert [(hit.id, hit.score) for hit in made.search(query, k=4)] == expected
    with pytest.raises(CareError, match="give the text of every query"):
        made.search_vectors(model.encode_query([query]))


def test_stopping_commits_what_is_encoded(model, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_PIECE", 3)
    made = Collection.create(tmp_path / "c", model)
    rows = [{"id": str(i), "text": f"文{i}"} for i in range(10)]
    seen = []
    done = made.upsert(rows, report=lambda so_far: seen.append(so_far.read), stop=lambda: len(seen) >= 2)
    assert done.stopped
    assert done.new == len(made) == 6
    assert made.upsert(rows).new == 4


def test_without_pylance_one_line_says_what_is_missing():
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from care_accel.errors import CareError\n"
        "import care_accel\n"
        "try:\n    care_accel.Collection\nexcept CareError as problem:\n    print(problem)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'care-accel[collection]'" in found.stdout
