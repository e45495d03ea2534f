"""Collections in Milvus, here milvus-lite, which speaks its client's language in this process."""

import datetime
import logging

import numpy as np
import pytest
from cluster_corpus import document

from care_accel import CareError, Collection
from care_accel.collection import milvus
from care_accel.collection.milvus import export

pymilvus = pytest.importorskip("pymilvus", reason="needs pymilvus: make stores")
pytest.importorskip("milvus_lite", reason="needs milvus-lite: make stores")
FLAT = {"index_type": "FLAT"}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    made = pymilvus.MilvusClient(str(tmp_path_factory.mktemp("milvus") / "milvus.db"))
    yield made
    made.close()


@pytest.fixture
def local(model, tmp_path):
    made = Collection.create(tmp_path / "c", model, fields={"day": "date", "tags": "texts"})
    rows = [document(number) for number in range(40)]
    rows[0] |= {"day": datetime.date(2026, 11, 30), "tags": ["a", "b"], "ok": True, "weight": 0.5}
    made.upsert(rows)
    made.delete(["d3"])
    return made


def test_every_document_is_there_with_its_fields_and_the_answers_are_those_of_the_scan(
    local, client, request
):
    name = request.node.name[:60]
    done = export(local, client, name, index=FLAT, queries=20, k=5, batch_rows=7)
    assert (done.documents, done.rows, done.version, done.recall) == (39, 39, local.version, 1.0)
    assert done.score_difference < 1e-5
    assert f"{name}: 39 documents" in str(done)
    (row,) = client.get(name, ids=["d0"])
    known = local.get("d0")
    assert {column: row[column] for column in ("id", "text", "year", "ok", "weight", "day", "tags")} == {
        **{column: known[column] for column in ("id", "text", "year", "ok", "weight", "tags")},
        "day": "2026-11-30",
    }
    assert client.get(name, ids=["d3"]) == []
    (row,) = client.get(name, ids=["d1"])
    assert row["ok"] is None
    hits = client.search(
        name,
        data=[local.model.encode_query("高血压").tolist()],
        limit=3,
        filter="year >= 2010",
        output_fields=["id"],
    )[0]
    assert [hit["id"] for hit in hits] == [hit.id for hit in local.search("高血压", 3, filter="year >= 2010")]


def test_chunks_are_rows_with_their_own_text(model, client, tmp_path, request):
    text = "孩子发烧先量体温，多喝水。骨折后应固定患肢，尽快拍片检查。" * 3
    made = Collection.create(tmp_path / "c", model, chunk_tokens=16)
    made.upsert(
        [{"id": "long", "title": "标题", "text": text, "year": 1}, {"id": "b", "text": "感冒。", "year": 2}]
    )
    name = request.node.name[:60]
    done = export(made, client, name, index=FLAT, queries=["发烧", "骨折"], k=3, batch_rows=2)
    assert (done.documents, done.recall) == (2, 1.0)
    rows = client.query(name, filter="id == 'long'", output_fields=["key", "chunk", "title", "text", "year"])
    rows.sort(key=lambda row: row["chunk"])
    assert len(rows) == done.rows - 1 > 2
    assert [row["key"] for row in rows] == [f"long#{number}" for number in range(len(rows))]
    assert "".join(row["text"] for row in rows) == text
    assert {(row["title"], row["year"]) for row in rows} == {("标题", 1)}


def test_fields_are_chosen_and_renamed_and_texts_left_out(model, client, tmp_path, request):
    made = Collection.create(tmp_path / "c", model)
    made.upsert([document(number) | {"科室": "内科"} for number in range(3)])
    name = request.node.name[:60]
    with pytest.raises(CareError, match=r"'科室' is no name for Milvus.*fields=\{'科室': 'field_1'\}"):
        export(made, client, name)
    assert not client.has_collection(name)
    export(made, client, name, fields={"科室": "department"}, text=False, queries=3)
    (row,) = client.get(name, ids=["d1"])
    assert row["department"] == "内科"
    assert not {"text", "title", "year"} & set(row)


def test_a_name_that_is_taken_is_refused_unless_it_is_to_be_replaced(local, client, request):
    name = request.node.name[:60]
    export(local, client, name, queries=3)
    with pytest.raises(CareError, match="has a collection of this name"):
        export(local, client, name, queries=3)
    local.delete(["d1"])
    assert export(local, client, name, queries=3, replace=True).rows == 38


def test_a_text_that_is_too_long_is_named_before_anything_is_written(model, client, tmp_path, request):
    made = Collection.create(tmp_path / "c", model)
    made.upsert([document(1), {"id": "long", "text": "长" * 30_000}])
    name = request.node.name[:60]
    with pytest.raises(CareError, match=r"document 'long': 'text' has 90,000 bytes.*text=False"):
        export(made, client, name)
    assert not client.has_collection(name)
    assert export(made, client, name, text=False, queries=2).recall == 1.0


def test_what_the_database_misses_is_told(local, client, request, monkeypatch, caplog):
    """A database whose answers are half of those it has."""
    search = type(client).search
    monkeypatch.setattr(
        type(client),
        "search",
        lambda self, *arguments, **options: [hits[::2] for hits in search(self, *arguments, **options)],
    )
    with caplog.at_level(logging.WARNING, milvus.__name__):
        done = export(local, client, request.node.name[:60], index=FLAT, queries=10, k=4)
    assert done.recall == pytest.approx(0.5)
    assert "0.5" in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"queries": 0}, "queries is 0"),
        ({"queries": []}, "there are none"),
        ({"queries": np.zeros((2, 5), np.float32)}, r"shape \[2, 5\]; it must be \[n, 384\]"),
        ({"fields": ["nothing"]}, "there is no 'nothing'; the fields are"),
        ({"fields": {"year": "vector"}}, "'vector' is no name for Milvus"),
        ({"fields": {"year": "a", "ok": "a"}}, "the same name"),
    ],
)
def test_mistakes_are_told_in_one_line(local, client, request, given, message):
    with pytest.raises(CareError, match=message) as told:
        export(local, client, "mistake", **given)
    assert "\n" not in str(told.value)


def test_what_the_server_refuses_is_told_in_one_line(local, client, request, monkeypatch):
    def refused(self, *arguments, **options):
        raise pymilvus.MilvusException(message="quota exceeded:\nrate limit")

    monkeypatch.setattr(type(client), "insert", refused)
    with pytest.raises(CareError, match=r"Milvus refuses: .*quota exceeded: rate limit"):
        export(local, client, request.node.name[:60])


def test_an_empty_collection_is_refused(model, client, tmp_path):
    with pytest.raises(CareError, match="nothing to export"):
        export(Collection.create(tmp_path / "c", model), client, "empty")
