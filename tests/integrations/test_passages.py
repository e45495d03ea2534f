"""What a framework gets of a hit."""

import datetime

import pytest

from care_accel import CareError, Collection, Retriever
from care_accel.integrations.passages import find, open_source

LONG = "孩子发烧先量体温，多喝水。" * 3 + "骨折后应固定患肢，尽快拍片检查。" * 3


@pytest.fixture(scope="module")
def collection(embedded_model, tmp_path_factory):
    made = Collection.create(tmp_path_factory.mktemp("passages") / "articles", embedded_model)
    made.upsert(
        [
            {
                "id": "a1",
                "title": "儿童发热",
                "text": "孩子发烧先量体温。",
                "department": "儿科",
                "year": 2023,
            },
            {"id": "a2", "text": "骨折后应固定患肢。", "seen": datetime.date(2024, 1, 2)},
        ]
    )
    return made


def test_a_passage_has_the_document_s_id_text_score_and_fields(collection):
    first, second = find(collection, "孩子发烧", 5)
    (hit, _) = collection.search("孩子发烧", 5)
    assert first == ("a1", "孩子发烧先量体温。", hit.score, first.fields, None)
    assert first.fields == {"title": "儿童发热", "department": "儿科", "year": 2023}
    assert second.fields == {"seen": datetime.date(2024, 1, 2)}  # nothing that is empty


def test_a_filter_and_k_are_the_collection_s(collection):
    assert [one.id for one in find(collection, "孩子发烧", 5, "year IS NULL")] == ["a2"]
    assert len(find(collection, "孩子发烧", 1)) == 1
    with pytest.raises(CareError, match="nothing"):
        find(collection, "孩子发烧", 1, "nothing = 1")
    with pytest.raises(CareError, match="k is 0"):
        find(collection, "孩子发烧", 0)


def test_of_a_document_in_chunks_the_chunk_that_matched_is_the_text(embedded_model, tmp_path):
    chunked = Collection.create(tmp_path / "chunked", embedded_model, chunk_tokens=24)
    chunked.upsert([{"id": "a", "text": LONG}])
    (found,) = find(chunked, "骨折拍片", 5)
    start, end = found.span
    assert 0 < start < end <= len(LONG)
    assert found.text == LONG[start:end]
    assert "拍片" in found.text
    assert len(found.text) < len(LONG)


@pytest.mark.parametrize(
    ("documents", "text", "fields"),
    [
        (["孩子发烧先量体温。"], "孩子发烧先量体温。", {}),
        ([{"text": "孩子发烧先量体温。", "title": "儿童"}], "孩子发烧先量体温。", {"title": "儿童"}),
    ],
)
def test_a_retriever_has_positions_as_ids(embedded_model, documents, text, fields):
    retriever = Retriever.from_documents(embedded_model, ["孩子发烧先量体温。"])
    retriever.documents = documents
    (found,) = find(retriever, "孩子发烧", 3)
    assert (found.id, found.text, found.fields, found.span) == ("0", text, fields, None)
    with pytest.raises(CareError, match="a filter needs a Collection; the source is a Retriever"):
        find(retriever, "孩子发烧", 3, "year = 1")


@pytest.mark.parametrize(
    ("documents", "words"),
    [(None, "no text"), ([7], "is a int"), ([{"body": "x"}], "no text"), ([{"text": None}], "no text")],
)
def test_documents_without_texts_are_told(embedded_model, documents, words):
    retriever = Retriever.from_documents(embedded_model, ["孩子发烧先量体温。"])
    retriever.documents = documents
    with pytest.raises(CareError, match=f"document 0 .*{words}"):
        find(retriever, "孩子发烧", 3)


def test_a_place_is_opened_and_anything_else_is_told(collection, tmp_path):
    assert open_source(collection) is collection
    assert open_source(collection.uri).ids() == collection.ids()
    with pytest.raises(CareError, match="absent"):
        open_source(tmp_path / "absent")
    with pytest.raises(CareError, match="the source is a list; give a Collection"):
        open_source([])
