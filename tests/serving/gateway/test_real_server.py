"""The gateway in front of the real inference server: its vectors are the library's, its hits the server's."""

import threading

import numpy as np
import openai
import pytest
from starlette.testclient import TestClient

from care_accel.encoding.runtimes.server import AsyncServerClient, ServerClient
from care_accel.eval.command import DEMO
from care_accel.files import read_jsonl
from care_accel.serving.gateway import Settings
from care_accel.serving.gateway.app import create_app

TEXTS = ["高血压怎么治", "a", " ", "孩子发烧三天了，咳嗽有痰。" * 40, "😷糖尿病\n吃什么"]


@pytest.fixture(scope="module")
def app(care_server):
    return create_app(Settings(rate=0.0, max_text=2_000_000), AsyncServerClient(care_server.grpc, retries=1))


@pytest.fixture(scope="module")
def http(app):
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def client(http):
    return openai.OpenAI(base_url="http://localhost/v1", api_key="none", http_client=http, max_retries=0)


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("task", ["retrieval", "sts"])
@pytest.mark.parametrize("encoding", [openai.omit, "float"])
def test_embeddings_are_the_library_s(client, embedded_model, role, task, encoding):
    answer = client.embeddings.create(
        model="care-mini",
        input=TEXTS,
        encoding_format=encoding,
        extra_body={"input_type": role, "task": task},
    )
    model = embedded_model
    encode = model.encode_query if role == "query" else model.encode_document
    expected = encode(TEXTS, task=task)
    np.testing.assert_allclose([one.embedding for one in answer.data], expected, atol=1e-5)
    tokens = sum(len(ids) for ids in model.encoder(role).tokenize(TEXTS, task))
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == tokens


@pytest.mark.parametrize("role", ["query", "document"])
def test_a_name_that_says_the_role_is_all_that_a_client_must_send(client, embedded_model, role):
    assert f"care-mini-{role}" in [model.id for model in client.models.list().data]
    answer = client.embeddings.create(model=f"care-mini-{role}", input=TEXTS)
    expected = embedded_model.encoder(role).encode(TEXTS)
    np.testing.assert_allclose([one.embedding for one in answer.data], expected, atol=1e-5)


def test_reranking_scores_are_the_library_s(http, embedded_model):
    documents = [
        "骨折后要固定",
        "高血压患者应低盐饮食",
        {"title": "高血压", "text": "多运动"},
        "",
        "骨折后要固定",
    ]
    fields = {"query": "血压高怎么办", "documents": documents}
    found = http.post("/v1/rerank", json=fields).json()["results"]
    texts = [*documents[:2], "高血压 多运动", *documents[3:]]
    model = embedded_model
    expected = model.encode_document(texts, task="reranking") @ model.encode_query(
        fields["query"], task="reranking"
    )
    assert [one["index"] for one in found] == sorted(range(5), key=lambda i: (-round(expected[i], 5), i))
    np.testing.assert_allclose(
        [one["relevance_score"] for one in found], expected[[one["index"] for one in found]], atol=1e-5
    )


def test_more_texts_than_a_piece_holds_are_one_request_here(client, embedded_model):
    texts = [f"头痛{number}天" for number in range(300)]
    answer = client.embeddings.create(model="care-mini", input=texts)
    np.testing.assert_allclose(
        [one.embedding for one in answer.data], embedded_model.encode_query(texts), atol=1e-5
    )


def test_fewer_dimensions_are_the_narrower_model_s(client, embedded_model):
    answer = client.embeddings.create(model="care-mini", input=TEXTS, dimensions=64)
    np.testing.assert_allclose(
        [one.embedding for one in answer.data], embedded_model.encode_query(TEXTS)[:, :64], atol=1e-5
    )


def test_hits_are_what_a_client_of_the_server_gets(http, care_server):
    queries = [row["text"] for _, row in read_jsonl(DEMO / "retrieval" / "care-demo" / "queries.jsonl")][:40]
    answer = http.post("/v1/search", json={"query": queries, "k": 7}).json()
    with ServerClient(care_server.grpc) as plain:
        expected = plain.search(queries, k=7)
    for place, found in enumerate(answer["data"]):
        assert [hit["id"] for hit in found["hits"]] == expected.ids[place].tolist()
        assert [hit["document"] for hit in found["hits"]] == expected.documents[place]
        np.testing.assert_allclose([hit["score"] for hit in found["hits"]], expected.scores[place], atol=1e-5)
        assert all(time >= 0 for time in found["timings"].values())


def test_what_the_server_refuses_is_told_in_its_own_words_and_the_next_request_works(client):
    with pytest.raises(openai.BadRequestError, match="1,000,000 bytes; at most 100,000") as error:
        client.embeddings.create(model="care-mini", input="x" * 10**6)
    assert error.value.code == "refused_by_server"
    assert client.embeddings.create(model="care-mini", input="头痛").data


def test_it_is_ready_when_the_server_is(http):
    assert http.get("/readyz").status_code == 200
    assert http.get("/v1/models").json()["data"][0]["id"] == "care-mini"


def test_many_at_once_each_get_their_own_answer(http, embedded_model):
    texts = [f"血压{number}怎么办" for number in range(48)]
    expected = embedded_model.encode_query(texts)
    found = {}

    def ask(number):
        fields = {"model": "care-mini", "input": texts[number]}
        found[number] = http.post("/v1/embeddings", json=fields).json()["data"][0]["embedding"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose([found[number] for number in range(len(texts))], expected, atol=1e-5)
