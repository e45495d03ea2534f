"""The adapters with a model in an inference server: the role of each text is kept, and vectors are the library's."""

import numpy as np
import pytest

pytest.importorskip("langchain_core", reason="needs LangChain: make clients")
pytest.importorskip("llama_index.core", reason="needs LlamaIndex: make clients")
pytest.importorskip("haystack", reason="needs Haystack: make clients")

from haystack import Document

from care_accel import DualEncoder, Retriever
from care_accel.integrations import haystack, langchain, llamaindex

QUERY = "孩子发烧怎么办"


def of_langchain(model, texts):
    embeddings = langchain.CareEmbeddings(model)
    return embeddings.embed_documents(texts), embeddings.embed_query(QUERY)


def of_llamaindex(model, texts):
    embedding = llamaindex.CareEmbedding(model)
    return embedding.get_text_embedding_batch(texts), embedding.get_query_embedding(QUERY)


def of_haystack(model, texts):
    embedder = haystack.CareDocumentEmbedder(model, progress_bar=False)
    found = embedder.run([Document(content=text) for text in texts])["documents"]
    return [one.embedding for one in found], haystack.CareTextEmbedder(model).run(QUERY)["embedding"]


@pytest.fixture(scope="module")
def served(care_server):
    with DualEncoder.from_server(care_server.grpc) as model:
        yield model


@pytest.mark.parametrize("embed", [of_langchain, of_llamaindex, of_haystack])
def test_vectors_are_the_library_s(served, embedded_model, texts, embed):
    documents, query = embed(served, texts)
    np.testing.assert_allclose(documents, embedded_model.encode_document(texts), atol=1e-5)
    np.testing.assert_allclose(query, embedded_model.encode_query(QUERY), atol=1e-5)


def test_settings_hold_the_server_s_address(served, care_server, embedded_model):
    embedding = llamaindex.CareEmbedding(served)
    settings = embedding.to_dict()
    assert settings["model"] == {"server": care_server.grpc}
    assert settings["revision"] == embedded_model.revision("document")
    again = llamaindex.CareEmbedding.from_dict(settings)
    np.testing.assert_allclose(
        again.get_query_embedding(QUERY), embedding.get_query_embedding(QUERY), atol=1e-6
    )
    assert haystack.CareTextEmbedder(served).to_dict()["init_parameters"] == {
        "model": {"server": care_server.grpc}
    }


def test_a_served_index_is_searched(care_server):
    with Retriever.from_server(care_server.grpc) as retriever:
        hits = retriever.search(QUERY, k=3)
        found = [one.id for one in haystack.CareRetriever(retriever, top_k=3).run(QUERY)["documents"]]
        assert found == [str(hit.id) for hit in hits]
        found = [one.id for one in langchain.CareRetriever(retriever, k=3).invoke(QUERY)]
        assert found == [str(hit.id) for hit in hits]
        found = [
            one.node_id for one in llamaindex.CareRetriever(retriever, similarity_top_k=3).retrieve(QUERY)
        ]
        assert found == [str(hit.id) for hit in hits]
