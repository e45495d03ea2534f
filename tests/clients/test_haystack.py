"""Components of Haystack, filled by the library."""

import pytest

pytest.importorskip("haystack", reason="needs Haystack: make clients")

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils.filters import document_matches_filter
from hypothesis import given
from hypothesis import strategies as st

from care_accel import CareError, Retriever
from care_accel.integrations.haystack import CareDocumentEmbedder, CareRetriever, CareTextEmbedder
from care_accel.integrations.haystack_filters import sql_of

QUERY = "孩子发烧怎么办"


def test_texts_are_queries_and_documents_are_documents(embedded_model, texts):
    assert CareTextEmbedder(embedded_model).run(QUERY) == {
        "embedding": embedded_model.encode_query(QUERY).tolist()
    }
    given = [Document(content=text, meta={"page": 1}) for text in texts]
    found = CareDocumentEmbedder(embedded_model, progress_bar=False).run(given)["documents"]
    assert [one.embedding for one in found] == embedded_model.encode_document(texts).tolist()
    assert [(one.id, one.content, one.meta) for one in found] == [
        (one.id, one.content, one.meta) for one in given
    ]
    assert [one.embedding for one in given] == [None] * len(given)
    assert CareDocumentEmbedder(embedded_model).run([]) == {"documents": []}


def test_embedded_titles_give_a_collection_s_vectors(embedded_model, rows):
    given = [Document(content=row["text"], meta={"title": row.get("title")}) for row in rows]
    embedder = CareDocumentEmbedder(embedded_model, progress_bar=False, meta_fields_to_embed=["title"])
    joined = [f"{row.get('title', '')} {row['text']}".strip() for row in rows]
    found = [one.embedding for one in embedder.run(given)["documents"]]
    assert found == embedded_model.encode_document(joined).tolist()


def test_a_document_without_content_is_an_empty_text(embedded_model):
    (found,) = CareDocumentEmbedder(embedded_model, progress_bar=False).run([Document(meta={"a": 1})])[
        "documents"
    ]
    assert found.embedding == embedded_model.encode_document("").tolist()


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (
            lambda: CareTextEmbedder().run([Document(content="a")]),
            "embed documents with CareDocumentEmbedder",
        ),
        (lambda: CareDocumentEmbedder().run("a"), "embed a query with CareTextEmbedder"),
        (lambda: CareDocumentEmbedder().run(["a"]), "embed a query with CareTextEmbedder"),
        (lambda: CareDocumentEmbedder(batch_size=0), "batch_size is 0"),
        (lambda: CareTextEmbedder("no-such/folder").warm_up(), "no-such"),
        (lambda: CareRetriever("absent-folder").warm_up(), "absent-folder"),
        (lambda: CareRetriever("articles", top_k=0), "top_k is 0"),
        (lambda: CareRetriever("articles", filters={"department": "儿科"}), "has no operator"),
    ],
)
def test_mistakes_are_told(run, words):
    with pytest.raises(CareError, match=words):
        run()


def test_nothing_is_loaded_before_it_is_needed():
    for component in (CareTextEmbedder("no-such/folder"), CareRetriever("absent-folder")):
        assert type(component).from_dict(component.to_dict()).to_dict() == component.to_dict()


def test_a_pipeline_finds_and_is_saved_with_its_models_by_name(embedded_model, texts):
    store = InMemoryDocumentStore()
    embedder = CareDocumentEmbedder(embedded_model, progress_bar=False)
    store.write_documents(embedder.run([Document(content=text) for text in texts])["documents"])
    pipeline = Pipeline()
    pipeline.add_component("embedder", CareTextEmbedder(embedded_model))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=4))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    found = pipeline.run({"embedder": {"text": QUERY}})["retriever"]["documents"]
    hits = Retriever.from_documents(embedded_model, texts).search(QUERY, k=4)
    assert [one.content for one in found] == [hit.document for hit in hits]
    assert [one.score for one in found] == pytest.approx([hit.score for hit in hits], abs=1e-6)
    assert pipeline.to_dict()["components"]["embedder"]["init_parameters"] == {"model": "care-mini"}


@pytest.mark.parametrize(
    "component",
    [
        CareTextEmbedder({"model": "care-mini", "width": 64}),
        CareDocumentEmbedder("care-mini", 8, False, ["title"], "\n"),
        CareRetriever("articles", {"field": "meta.year", "operator": ">", "value": 2020}, 3),
    ],
)
def test_saved_settings_are_read_again(component):
    pipeline = Pipeline()
    pipeline.add_component("one", component)
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=["care_accel.*"]).get_component("one")
    assert type(again) is type(component)
    assert again.to_dict() == component.to_dict()


def test_a_saved_retriever_opens_its_collection_again(collection):
    retriever = CareRetriever(collection, top_k=2)
    again = CareRetriever.from_dict(retriever.to_dict())
    assert again.run(QUERY) == retriever.run(QUERY)


def test_a_source_without_a_place_cannot_be_saved(embedded_model, texts):
    retriever = CareRetriever(Retriever.from_documents(embedded_model, texts), top_k=1)
    assert retriever.run(QUERY)["documents"][0].content == texts[1]
    with pytest.raises(CareError, match="a Retriever cannot be written to settings"):
        retriever.to_dict()


def test_a_retriever_gives_the_collection_s_hits(collection):
    found = CareRetriever(collection, top_k=3).run(QUERY)["documents"]
    hits = collection.search(QUERY, k=3)
    assert [(one.id, one.score) for one in found] == [(hit.id, hit.score) for hit in hits]
    assert found[0].content == "孩子发烧先量体温，多喝水，超过三天不退要就医。"
    assert found[0].meta == {"title": "儿童发热", "department": "儿科", "year": 2023}


def test_filters_and_top_k_are_given_once_or_with_each_query(collection):
    children = {"field": "meta.department", "operator": "==", "value": "儿科"}
    retriever = CareRetriever(collection, filters=children)
    assert [one.id for one in retriever.run(QUERY)["documents"]] == ["a2", "a4"]
    assert [one.id for one in retriever.run(QUERY, top_k=1)["documents"]] == ["a2"]
    assert [one.id for one in retriever.run(QUERY, filters="year < 2020")["documents"]] == ["a3"]


def test_a_chunk_is_the_content_with_its_place(chunked):
    (found,) = CareRetriever(chunked).run("骨折拍片")["documents"]
    (hit,) = chunked.search("骨折拍片")
    assert found.meta == {"span": list(hit.span)}
    assert found.content == hit.document["text"][slice(*hit.span)]


DEPARTMENTS = st.sampled_from(["儿科", "内科", "外科", "耳'鼻喉", None])
YEARS = st.sampled_from([2018, 2019, 2021.0, 2022, 2023])
COMPARISONS = st.one_of(
    st.builds(
        lambda operator, value: {"field": "meta.department", "operator": operator, "value": value},
        st.sampled_from(["==", "!="]),
        DEPARTMENTS,
    ),
    st.builds(
        lambda operator, value: {"field": "meta.department", "operator": operator, "value": value},
        st.sampled_from(["in", "not in"]),
        st.lists(DEPARTMENTS, max_size=3),
    ),
    st.builds(
        lambda operator, value: {"field": "meta.year", "operator": operator, "value": value},
        st.sampled_from(["==", "!=", ">", ">=", "<", "<="]),
        YEARS | st.none(),
    ),
    st.builds(
        lambda value: {"field": "id", "operator": "==", "value": value}, st.sampled_from(["a1", "a2", "x"])
    ),
)
FILTERS = st.recursive(
    COMPARISONS,
    lambda inner: st.builds(
        lambda operator, conditions: {"operator": operator, "conditions": conditions},
        st.sampled_from(["AND", "OR", "NOT"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


@given(filters=FILTERS)
def test_filters_leave_what_haystack_s_own_leave(collection, rows, filters):
    documents = [
        Document(
            id=row["id"], content=row["text"], meta={"department": row["department"], "year": row.get("year")}
        )
        for row in rows
    ]
    expected = {one.id for one in documents if document_matches_filter(filters, one)}
    assert {hit.id for hit in collection.search(QUERY, k=9, filter=sql_of(filters))} == expected
