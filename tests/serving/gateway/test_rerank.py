"""Reranking: documents by their scores for a query."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from care_accel.serving.gateway.reranking import best, distinct

DOCUMENTS = ["低盐饮食", "多喝水", "", "低盐饮食", {"text": "监测血糖", "title": "糖尿病", "year": 2021}]


def rerank(client, **fields):
    return client.post("/v1/rerank", json={"query": "高血压怎么治", "documents": DOCUMENTS, **fields})


def expected(memory, texts, query="高血压怎么治"):
    """Return indices and scores, best first, as the plain product has them."""
    scores = memory.vectors("document", texts).astype(np.float64) @ memory.vectors("query", [query])[
        0
    ].astype(np.float64)
    scores = scores.astype(np.float32)
    order = sorted(range(len(texts)), key=lambda i: (-scores[i], i))
    return order, [float(scores[i]) for i in order]


def test_documents_come_by_the_product_of_both_encoders_vectors_equal_ones_by_index(gateway, memory):
    answer = rerank(gateway()).json()
    texts = ["低盐饮食", "多喝水", "", "低盐饮食", "糖尿病 监测血糖"]
    order, scores = expected(memory, texts)
    assert [one["index"] for one in answer["results"]] == order
    assert order.index(3) == order.index(0) + 1
    np.testing.assert_allclose([one["relevance_score"] for one in answer["results"]], scores, rtol=1e-6)
    assert memory.asked == [
        ("encode", "query", ["高血压怎么治"], "reranking"),
        ("encode", "document", ["低盐饮食", "多喝水", "", "糖尿病 监测血糖"], "reranking"),
    ]
    assert answer["model"] == "care-mini"
    assert answer["usage"]["total_tokens"] == 6 + 4 + 3 + 0 + 8
    assert all(set(one) == {"index", "relevance_score"} for one in answer["results"])


def test_the_best_are_returned_with_their_documents_if_asked_for(gateway, memory):
    client = gateway()
    whole = rerank(client).json()["results"]
    answer = rerank(client, top_n=2, return_documents=True, model="care-mini").json()
    assert [one["index"] for one in answer["results"]] == [one["index"] for one in whole[:2]]
    everything = rerank(client, top_n=99, return_documents=True).json()["results"]
    assert len(everything) == len(DOCUMENTS)
    for one in everything:
        document = DOCUMENTS[one["index"]]
        assert one["document"] == (document if isinstance(document, dict) else {"text": document})


def test_as_many_documents_as_texts_elsewhere_are_sent_in_pieces(gateway, memory):
    texts = [f"第{number}条" for number in range(2048)]
    answer = rerank(gateway(), documents=texts).json()
    assert [one["index"] for one in answer["results"]] == expected(memory, texts)[0]
    assert [len(one[2]) for one in memory.asked] == [1, *[256] * 8]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"query": None}, "query", "'query' is missing"),
        ({"query": ""}, "query", "'query' is empty"),
        ({"query": ["a"]}, "query", "must be a string"),
        ({"query": "痛" * 50_000}, "query", "150000 bytes"),
        ({"documents": None}, "documents", "'documents' is missing"),
        ({"documents": []}, "documents", "empty list"),
        ({"documents": "a"}, "documents", "must be a list"),
        ({"documents": ["a"] * 2049}, "documents", "has 2049 documents; the maximum per request is 2048"),
        ({"documents": ["a", 1.5]}, "documents", "'documents'[1] must be a string"),
        ({"documents": ["a", {"title": "b"}]}, "documents", "'documents'[1] must have a 'text'"),
        ({"documents": [{"text": "a", "title": 1}]}, "documents", "so must be its 'title'"),
        ({"documents": [{"text": "痛" * 20_000, "title": "痛" * 20_000}]}, "documents", "120001 bytes"),
        ({"top_n": 0}, "top_n", "1 or more"),
        ({"top_n": "3"}, "top_n", "integer"),
        ({"return_documents": "yes"}, "return_documents", "true or false"),
        ({"rank_fields": ["title"]}, "rank_fields", "unknown field"),
    ],
)
def test_a_request_that_is_wrong_says_which_field_and_nothing_is_encoded(
    gateway, memory, fields, param, words
):
    error = rerank(gateway(), **fields).json()["error"]
    assert error["param"] == param
    assert words in error["message"]
    assert memory.asked == []


@pytest.mark.parametrize("model", ["gpt-4", "care-mini-query", "care-mini-document"])
def test_the_model_is_named_without_a_role_as_both_are_used(gateway, memory, model):
    answer = rerank(gateway(), model=model)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "'care-mini', whose two roles" in answer.json()["error"]["message"]
    assert memory.asked == []


@given(st.data())
def test_the_order_is_that_of_the_scores_that_are_shown(data):
    texts = data.draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=12))
    unique, positions = distinct(texts)
    assert [unique[place] for place in positions] == texts
    assert len(set(unique)) == len(unique)
    numbers = st.integers(-3, 3).map(np.float32)
    vectors = data.draw(arrays(np.float32, (len(unique), 3), elements=numbers))
    query = data.draw(arrays(np.float32, 3, elements=numbers))
    count = data.draw(st.integers(1, 15))
    scores = [float(vectors[place] @ query) for place in positions]  # of small whole numbers: exact
    order = sorted(range(len(texts)), key=lambda i: (-scores[i], i))[:count]
    assert best(query, vectors, positions, count) == [(i, scores[i]) for i in order]
