"""The frameworks' own clients in front of a gateway and a real server: the roles are right, and vectors are the library's."""

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("langchain_openai", reason="needs LangChain's OpenAI package: make clients")
pytest.importorskip(
    "llama_index.embeddings.openai_like", reason="needs LlamaIndex's OpenAI package: make clients"
)
pytest.importorskip("haystack", reason="needs Haystack: make clients")

import httpx2
import llama_index.core
import openai
from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai_like import OpenAILikeEmbedding

QUERY = "孩子发烧怎么办"
# The role that each name of the model stands for.
ROLES = {"care-mini": "query", "care-mini-query": "query", "care-mini-document": "document"}


def langchain(gateway, name, **settings):
    settings = {"check_embedding_ctx_length": False, "max_retries": 0, **settings}
    return OpenAIEmbeddings(model=name, base_url=f"{gateway}/v1", api_key="none", **settings)


def llamaindex(gateway, name, **settings):
    address = {"api_base": f"{gateway}/v1", "api_key": "none", "max_retries": 0}
    return OpenAILikeEmbedding(model_name=name, **address, **settings)


def haystack(gateway, name, kind, **settings):
    key = Secret.from_token("none")
    return kind(model=name, api_base_url=f"{gateway}/v1", api_key=key, max_retries=0, **settings)


def requests(gateway):
    """Return how many embedding requests the gateway has answered."""
    text = httpx2.get(f"{gateway}/metrics").text
    counts = re.findall(r'_requests_total\{[^}]*route="/v1/embeddings"[^}]*\} (\S+)', text)
    return sum(map(float, counts))


@pytest.fixture(scope="module")
def expected(embedded_model, texts):
    """Return the library's vectors of a role, for the texts and the query."""
    encode = {"query": embedded_model.encode_query, "document": embedded_model.encode_document}
    made = {role: (of(texts), of(QUERY)) for role, of in encode.items()}
    assert np.abs(made["query"][0] - made["document"][0]).max() > 1e-2  # a mistaken role is seen
    return made


def close(found, vectors):
    np.testing.assert_allclose(found, vectors, atol=1e-5)


@pytest.mark.parametrize(("name", "role"), ROLES.items())
def test_langchain_gets_the_vectors_of_the_name_s_role(gateway, expected, texts, name, role):
    client = langchain(gateway, name)
    close(client.embed_documents(texts), expected[role][0])
    close(client.embed_query(QUERY), expected[role][1])
    close(asyncio.run(client.aembed_documents(texts)), expected[role][0])


@pytest.mark.parametrize(("name", "role"), ROLES.items())
def test_llamaindex_gets_the_vectors_of_the_name_s_role(gateway, expected, texts, name, role):
    client = llamaindex(gateway, name)
    close(client.get_text_embedding_batch(texts), expected[role][0])
    close(client.get_query_embedding(QUERY), expected[role][1])


@pytest.mark.parametrize(("name", "role"), ROLES.items())
def test_haystack_gets_the_vectors_of_the_name_s_role(gateway, expected, texts, name, role):
    embedder = haystack(gateway, name, OpenAIDocumentEmbedder, raise_on_failure=True, progress_bar=False)
    found = embedder.run([Document(content=text) for text in texts])["documents"]
    close([one.embedding for one in found], expected[role][0])
    close(haystack(gateway, name, OpenAITextEmbedder).run(QUERY)["embedding"], expected[role][1])


def test_a_thousand_texts_of_langchain_are_one_request(gateway, embedded_model):
    texts = [f"头痛{number}天" for number in range(1000)]
    before = requests(gateway)
    found = langchain(gateway, "care-mini-document").embed_documents(texts)
    assert requests(gateway) == before + 1
    some = [0, 1, 31, 32, 255, 256, 500, 999]
    assert len(found) == 1000
    close([found[i] for i in some], embedded_model.encode_document([texts[i] for i in some]))


def test_more_texts_than_a_request_holds_are_several_requests(gateway):
    texts = [f"咳嗽{number % 10}天" for number in range(2100)]
    client = langchain(gateway, "care-mini-query", chunk_size=2048)
    before = requests(gateway)
    assert len(client.embed_documents(texts)) == 2100
    assert requests(gateway) == before + 2


def test_token_ids_are_refused_with_the_setting_that_helps(gateway, monkeypatch):
    # The tokenizer that LangChain would download comes with LlamaIndex.
    cache = Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
    client = langchain(gateway, "care-mini-query", check_embedding_ctx_length=True)
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        client.embed_query(QUERY)


def test_a_name_that_is_not_served_is_told(gateway):
    with pytest.raises(openai.NotFoundError, match="care-mini-document"):
        langchain(gateway, "care-mini-doc").embed_query(QUERY)
