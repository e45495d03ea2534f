"""LlamaIndex's base classes, filled by the library."""

import asyncio
import pickle

import pytest

pytest.importorskip("llama_index.core", reason="needs LlamaIndex: make clients")

from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore

from care_accel import CareError, DualEncoder, Retriever
from care_accel.integrations.llamaindex import CareEmbedding, CareRetriever

QUERY = "孩子发烧怎么办"


def test_texts_and_queries_have_the_library_s_vectors(embedded_model, texts):
    embedding = CareEmbedding(embedded_model)
    assert isinstance(embedding, BaseEmbedding)
    assert embedding.get_query_embedding(texts[0]) == embedded_model.encode_query(texts[0]).tolist()
    assert embedding.get_text_embedding(texts[0]) == embedded_model.encode_document(texts[0]).tolist()
    assert embedding.get_query_embedding(texts[0]) != embedding.get_text_embedding(texts[0])
    assert embedding.get_text_embedding_batch(texts) == embedded_model.encode_document(texts).tolist()


def test_batches_are_as_large_as_asked(embedded_model, texts):
    found = CareEmbedding(embedded_model, embed_batch_size=3).get_text_embedding_batch(texts)
    parts = (texts[:3], texts[3:])
    assert found == [row for part in parts for row in embedded_model.encode_document(part).tolist()]


def test_the_asynchronous_methods_have_the_same_vectors(embedded_model, texts):
    embedding = CareEmbedding(embedded_model)
    assert asyncio.run(embedding.aget_query_embedding(QUERY)) == embedding.get_query_embedding(QUERY)
    assert asyncio.run(embedding.aget_text_embedding(QUERY)) == embedding.get_text_embedding(QUERY)
    batch = asyncio.run(embedding.aget_text_embedding_batch(texts))
    assert batch == embedding.get_text_embedding_batch(texts)


def test_settings_and_pickles_open_the_same_model(embedded_model):
    embedding = CareEmbedding({"model": "care-mini", "width": 64})
    for again in (CareEmbedding.from_dict(embedding.to_dict()), pickle.loads(pickle.dumps(embedding))):
        assert again.to_dict() == embedding.to_dict()
        assert again.get_query_embedding(QUERY) == embedding.get_query_embedding(QUERY)
    assert embedding.to_dict()["revision"] != CareEmbedding(embedded_model).to_dict()["revision"]


def test_settings_of_another_model_are_refused(embedded_model):
    settings = CareEmbedding(embedded_model).to_dict()
    with pytest.raises(
        CareError, match="written with document encoder sha256:0000, but care-mini has sha256:"
    ):
        CareEmbedding.from_dict(settings | {"revision": "sha256:0000"})
    with pytest.raises(CareError, match="model_name is 'bge-m3', but the model is 'care-mini'"):
        CareEmbedding(model_name="bge-m3")


def test_an_option_that_would_be_dropped_is_refused(embedded_model):
    with pytest.raises(CareError, match="no option 'width'; arguments of the model go into"):
        CareEmbedding("care-mini", width=64)
    assert CareEmbedding({"model": "care-mini", "width": 64}, num_workers=2).num_workers == 2


def test_a_model_without_a_name_to_load_it_by_encodes_all_the_same(embedded_model):
    twin = embedded_model.twin()
    embedding = CareEmbedding(twin)
    assert embedding.get_query_embedding(QUERY) == twin.encode_query(QUERY).tolist()
    with pytest.raises(CareError):
        CareEmbedding.from_dict(embedding.to_dict())


def test_a_cache_that_mixes_the_roles_is_refused(embedded_model):
    with pytest.raises(CareError, match="queries and documents have different ones"):
        CareEmbedding(embedded_model, embeddings_cache=SimpleKVStore())


def test_the_cache_of_a_pipeline_keeps_models_apart(embedded_model, texts):
    nodes = [TextNode(text=text) for text in texts]
    cache = None
    for model in (embedded_model, DualEncoder.from_pretrained(width=64)):
        pipeline = IngestionPipeline(transformations=[CareEmbedding(model)], cache=cache)
        cache = pipeline.cache
        found = [node.embedding for node in pipeline.run(nodes=nodes)]
        assert found == model.encode_document(texts).tolist()


def test_an_index_finds_with_it(embedded_model, texts):
    nodes = [TextNode(text=text) for text in texts]
    index = VectorStoreIndex(nodes, embed_model=CareEmbedding(embedded_model))
    found = index.as_retriever(similarity_top_k=len(texts)).retrieve(QUERY)
    hits = Retriever.from_documents(embedded_model, texts).search(QUERY, k=len(texts))
    assert [one.node.text for one in found] == [hit.document for hit in hits]
    assert [one.score for one in found] == pytest.approx([hit.score for hit in hits], abs=1e-6)


def test_a_retriever_gives_the_collection_s_hits(collection):
    retriever = CareRetriever(collection, similarity_top_k=3)
    assert isinstance(retriever, BaseRetriever)
    found = retriever.retrieve(QUERY)
    hits = collection.search(QUERY, k=3)
    assert [(one.node_id, one.score) for one in found] == [(hit.id, hit.score) for hit in hits]
    first = found[0].node
    assert (first.text, first.ref_doc_id) == ("孩子发烧先量体温，多喝水，超过三天不退要就医。", "a2")
    assert first.metadata == {"title": "儿童发热", "department": "儿科", "year": 2023}
    assert [one.node_id for one in asyncio.run(retriever.aretrieve(QUERY))] == [hit.id for hit in hits]


def test_it_filters(collection):
    found = CareRetriever(collection, filter="department = '儿科'").retrieve(QUERY)
    assert [one.node_id for one in found] == ["a2", "a4"]


def test_a_chunk_is_the_text_with_its_place(chunked):
    (found,) = CareRetriever(chunked).retrieve("骨折拍片")
    (hit,) = chunked.search("骨折拍片")
    assert (found.node.start_char_idx, found.node.end_char_idx) == hit.span
    assert found.node.text == hit.document["text"][slice(*hit.span)]


def test_what_is_wrong_is_told_at_once(collection, tmp_path):
    with pytest.raises(CareError, match="absent"):
        CareRetriever(tmp_path / "absent")
    with pytest.raises(CareError, match="similarity_top_k is 0"):
        CareRetriever(collection, similarity_top_k=0)
