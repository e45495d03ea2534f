"""LangChain's base classes, filled by the library."""

import asyncio

import pytest

pytest.importorskip("langchain_core", reason="needs LangChain: make clients")

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from care_accel import CareError, Collection, Retriever
from care_accel.integrations.langchain import CareEmbeddings, CareRetriever

QUERY = "孩子发烧怎么办"


@pytest.mark.parametrize("batch_size", [64, 2])
def test_documents_and_queries_have_the_library_s_vectors(embedded_model, texts, batch_size):
    embeddings = CareEmbeddings(embedded_model, batch_size=batch_size)
    assert isinstance(embeddings, Embeddings)
    expected = embedded_model.encode_document(texts, batch_size=batch_size)
    assert embeddings.embed_documents(texts) == expected.tolist()
    assert embeddings.embed_query(texts[0]) == embedded_model.encode_query(texts[0]).tolist()
    assert embeddings.embed_query(texts[0]) != embeddings.embed_documents(texts[:1])[0]
    assert embeddings.embed_documents([]) == []


def test_the_asynchronous_methods_have_the_same_vectors(embedded_model, texts):
    embeddings = CareEmbeddings(embedded_model)
    assert asyncio.run(embeddings.aembed_documents(texts)) == embeddings.embed_documents(texts)
    assert asyncio.run(embeddings.aembed_query(QUERY)) == embeddings.embed_query(QUERY)


def test_a_model_s_name_is_enough(embedded_model):
    assert CareEmbeddings().embed_query(QUERY) == embedded_model.encode_query(QUERY).tolist()
    with pytest.raises(CareError, match="no-such"):
        CareEmbeddings("no-such/folder")


def test_a_vector_store_finds_with_it(embedded_model, texts):
    store = InMemoryVectorStore(CareEmbeddings(embedded_model))
    store.add_texts(texts)
    found = [one.page_content for one in store.similarity_search(QUERY, k=len(texts))]
    hits = Retriever.from_documents(embedded_model, texts).search(QUERY, k=len(texts))
    assert found == [hit.document for hit in hits]


def test_a_retriever_gives_the_collection_s_hits(collection):
    retriever = CareRetriever(collection, k=3)
    assert isinstance(retriever, BaseRetriever)
    found = retriever.invoke(QUERY)
    hits = collection.search(QUERY, k=3)
    assert [one.id for one in found] == [hit.id for hit in hits]
    assert [one.metadata["score"] for one in found] == [hit.score for hit in hits]
    assert found[0] == Document(
        id="a2",
        page_content="孩子发烧先量体温，多喝水，超过三天不退要就医。",
        metadata={
            "id": "a2",
            "score": hits[0].score,
            "title": "儿童发热",
            "department": "儿科",
            "year": 2023,
        },
    )


def test_k_and_filter_are_given_once_or_with_each_query(collection):
    children = "department = '儿科'"
    assert [one.id for one in CareRetriever(collection, k=5, filter=children).invoke(QUERY)] == ["a2", "a4"]
    retriever = CareRetriever(collection)
    expected = [hit.id for hit in collection.search(QUERY, k=1, filter="year < 2020")]
    assert [one.id for one in retriever.invoke(QUERY, k=1, filter="year < 2020")] == expected == ["a3"]
    found = asyncio.run(retriever.ainvoke(QUERY, k=1, filter="year < 2020"))
    assert [one.id for one in found] == expected
    assert len(retriever.invoke(QUERY)) == 4
    with pytest.raises(CareError, match="k is 0"):
        retriever.invoke(QUERY, k=0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda collection: CareRetriever(collection, k=0), "k is 0"),
        (lambda collection: CareRetriever(collection, filer="year = 1"), "no option 'filer'"),
        (lambda collection: CareEmbeddings(collection.model).embed_documents("头痛"), "texts are a str"),
    ],
)
def test_what_would_be_dropped_or_mistaken_is_told(collection, make, words):
    with pytest.raises(CareError, match=words):
        make(collection)


def test_langchain_s_own_options_are_kept(collection):
    retriever = CareRetriever(collection, tags=["care"], metadata={"a": 1}, name="articles")
    assert (retriever.tags, retriever.metadata, retriever.name) == (["care"], {"a": 1}, "articles")


def test_it_is_a_part_of_a_chain(collection):
    chain = {
        "context": CareRetriever(collection, k=1),
        "question": RunnablePassthrough(),
    } | RunnablePassthrough()
    first, second = chain.batch([QUERY, "骨头断了"])
    assert (first["context"][0].id, first["question"]) == ("a2", QUERY)
    assert second["context"][0].id == "a3"


def test_a_chunk_is_the_content_with_its_place(chunked):
    (found,) = CareRetriever(chunked).invoke("骨折拍片")
    (hit,) = chunked.search("骨折拍片")
    assert found.metadata["span"] == list(hit.span)
    assert found.page_content == hit.document["text"][slice(*hit.span)]


def test_a_field_that_is_called_score_does_not_hide_the_score(embedded_model, tmp_path):
    made = Collection.create(tmp_path / "scores", embedded_model)
    made.upsert([{"id": "a", "text": "头痛", "score": 5}])
    (found,) = CareRetriever(made).invoke("头痛")
    assert found.metadata["score"] == made.search("头痛")[0].score


def test_a_folder_is_opened_and_a_wrong_source_is_one_line(collection, tmp_path):
    assert [one.id for one in CareRetriever(collection.uri, k=1).invoke(QUERY)] == ["a2"]
    for source in (tmp_path / "absent", 7):
        with pytest.raises(CareError) as error:
            CareRetriever(source)
        assert "\n" not in str(error.value)


def test_a_retriever_of_the_library_is_searched_too(embedded_model, texts):
    retriever = Retriever.from_documents(embedded_model, texts)
    (found,) = CareRetriever(retriever, k=1).invoke(QUERY)
    assert (found.id, found.page_content) == ("1", texts[1])
    with pytest.raises(CareError, match="a filter needs a Collection"):
        CareRetriever(retriever).invoke(QUERY, filter="year = 1")
