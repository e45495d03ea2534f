"""Requests and what comes back: fields, hits, errors of the inference server."""

import asyncio
import json
import re
import time

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from care_accel.encoding.runtimes.attempts import ServerError
from care_accel.errors import CareError


@pytest.fixture
def client(gateway):
    return gateway()


def refused(client, path, status, **fields):
    answer = client.post(path, json=fields)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_a_search_gives_hits_with_documents_and_times(gateway, memory):
    answer = gateway().post("/v1/search", json={"query": "血压高", "k": 5}).json()
    (found,) = answer["data"]
    assert found["hits"] == [
        {"id": 0, "score": pytest.approx(0.9), "document": "高血压患者应低盐饮食。"},
        {"id": 1, "score": pytest.approx(0.5), "document": {"title": "糖尿病", "text": "监测血糖。"}},
    ]
    assert found["timings"] == {"tokenise_us": 300.0, "encode_us": 4200.0, "scan_us": 80.0}
    assert answer["timings"]["gateway_us"] > 0
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert memory.asked == [("search", ["血压高"], 5, "retrieval")]


def test_a_list_of_queries_gives_a_list_of_hits_for_each(gateway):
    answer = gateway().post("/v1/search", json={"query": ["血压高", "头痛"], "k": 1}).json()
    assert [(one["index"], len(one["hits"])) for one in answer["data"]] == [(0, 1), (1, 1)]


def test_ten_hits_are_asked_for_by_default(gateway, memory):
    gateway().post("/v1/search", json={"query": "血压高", "model": "care-mini", "task": "reranking"})
    assert memory.asked == [("search", ["血压高"], 10, "reranking")]


def test_hits_of_a_collection_have_the_documents_own_ids(gateway, memory):
    memory.document_ids = ["a/1", "2"]
    answer = gateway().post("/v1/search", json={"query": ["血压高", "头痛"], "k": 3}).json()
    assert [[hit["id"] for hit in one["hits"]] for one in answer["data"]] == [["a/1", "2"]] * 2


def test_a_filter_is_for_all_queries_of_a_request(gateway, memory):
    condition = "department = '儿科' AND year >= 2021"
    client = gateway()
    assert client.post("/v1/search", json={"query": ["a", "b"], "filter": condition}).status_code == 200
    assert memory.asked.pop() == ("search", ["a", "b"], 10, "retrieval", [condition] * 2)
    assert client.post("/v1/search", json={"query": "a", "filter": None}).status_code == 200
    assert memory.asked.pop() == ("search", ["a"], 10, "retrieval")


def test_a_request_may_allow_a_partial_answer(gateway, memory):
    client = gateway()
    for some in ({"partial": True}, {"partial": False}, {"partial": None}, {}):
        assert client.post("/v1/search", json={"query": "a", **some}).status_code == 200
    assert [("partial", True) in asked for asked in memory.asked] == [True, False, False, False]
    refused(client, "/v1/search", 400, query="a", partial="yes")


def test_a_filter_that_the_server_refuses_is_told_in_its_words_and_not_logged(gateway, memory, caplog):
    problem = "scan: filter \"科 = '头痛'\": no field 科; the fields are id (a text)"
    memory.fault = None
    client = gateway()
    client.get("/v1/models")
    memory.fault = ServerError("INVALID_ARGUMENT", problem)
    error = refused(client, "/v1/search", 400, query="a", filter="科 = '头痛'")
    assert (error["code"], error["message"]) == ("refused_by_server", problem)
    assert "头痛" not in caplog.text


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"model": "care-mini"}, "input", "missing"),
        ({"input": "头痛"}, "model", "missing"),
        ({"input": "", "model": "care-mini"}, "input", "is empty"),
        ({"input": [], "model": "care-mini"}, "input", "empty list"),
        ({"input": ["头痛", ""], "model": "care-mini"}, "input", r"'input'\[1\] is empty"),
        ({"input": ["头痛", None], "model": "care-mini"}, "input", r"'input'\[1\] must be a string"),
        ({"input": [1, 2], "model": "care-mini"}, "input", "token ids"),
        ({"input": [[1, 2]] * 9, "model": "care-mini"}, "input", "token ids"),
        (
            {"input": list(range(9000)), "model": "care-mini"},
            "input",
            r"token ids.*check_embedding_ctx_length=False\): see docs/gateway.md#langchain",
        ),
        ({"input": ["头痛", [1, 2]], "model": "care-mini"}, "input", "token ids"),
        ({"input": {"text": "头痛"}, "model": "care-mini"}, "input", "string or a list"),
        ({"input": ["头痛"] * 5, "model": "care-mini"}, "input", "maximum per request is 4"),
        ({"input": "痛" * 34, "model": "care-mini"}, "input", "102 bytes"),
        ({"input": "头痛", "model": ["care-mini"]}, "model", "must be a string"),
        ({"input": "头痛", "model": "care-mini", "input_type": "passage"}, "input_type", "query, document"),
        ({"input": "头痛", "model": "care-mini", "input_type": ["query"]}, "input_type", "query, document"),
        ({"input": "头痛", "model": "care-mini", "task": "chat"}, "task", "retrieval, reranking, sts"),
        ({"input": "头痛", "model": "care-mini", "encoding_format": "hex"}, "encoding_format", "base64"),
        ({"input": "头痛", "model": "care-mini", "dimensions": 0}, "dimensions", "1 or more"),
        ({"input": "头痛", "model": "care-mini", "dimensions": True}, "dimensions", "integer"),
        ({"input": "头痛", "model": "care-mini", "dimensions": 2.0}, "dimensions", "integer"),
        ({"input": "头痛", "model": "care-mini", "dimensions": 9}, "dimensions", "have 8 values"),
        ({"input": "头痛", "model": "care-mini", "input_typ": "document"}, "input_typ", "unknown field"),
    ],
)
def test_an_embedding_request_that_is_wrong_says_which_field(gateway, fields, param, words):
    error = refused(gateway(max_inputs=4, max_text=100), "/v1/embeddings", 400, **fields)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert re.search(words, error["message"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"query": "头痛", "k": 0}, "'k' is 0; it must be 1 or more"),
        ({"query": "头痛", "k": -(10**40)}, "'k' is negative"),
        ({"query": "头痛", "k": 10**9}, "maximum is 1000"),
        ({"query": "头痛", "k": 10**100}, "'k' is a very large number"),
        ({"query": ["头痛"] * 11, "k": 1000}, "11 queries with 1000 hits each"),
        ({"query": "头痛", "k": "10"}, "'k' must be an integer"),
        ({"query": ""}, "'query' is empty"),
        ({"query": "头痛", "filter": " "}, "'filter' is empty"),
        ({"query": "头痛", "filter": ["a = 1"]}, "'filter' must be a string"),
        ({"query": "头痛", "filter": "x" * 10_001}, "'filter' has 10001 characters"),
        ({"query": "头痛", "dimensions": 3}, "unknown field 'dimensions'"),
    ],
)
def test_a_search_that_is_wrong_is_refused_and_the_next_one_works(gateway, fields, words):
    client = gateway()
    assert words in refused(client, "/v1/search", 400, **fields)["message"]
    assert client.post("/v1/search", json={"query": "头痛"}).status_code == 200


def test_a_model_that_is_not_served_is_not_found(gateway, memory):
    for path, fields in (("/v1/embeddings", {"input": "a"}), ("/v1/search", {"query": "a"})):
        error = refused(gateway(), path, 404, model="gpt-4", **fields)
        assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert memory.asked == []


def test_half_a_surrogate_pair_becomes_the_replacement_character_as_in_the_library(gateway, memory):
    answer = gateway().post(
        "/v1/search", content=b'{"query": "\\ud83d!"}', headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200
    assert memory.asked[0][1] == ["\ufffd!"]


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b'{"query": "a"}', "text/plain", 415, "unsupported_media_type"),
        (b'{"query": "a"}', "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b'{"query": ', "application/json", 400, "invalid_json"),
        (b'{"query": "\xff"}', "application/json", 400, "invalid_json"),
        (b'{"query": "a", "k": NaN}', "application/json", 400, "invalid_json"),
        (b'{"query": "a", "k": ' + b"9" * 9000 + b"}", "application/json", 400, "invalid_json"),
        (b"[" * 200_000, "application/json", 400, "invalid_json"),
        (b'["a"]', "application/json", 400, "invalid_json"),
        (b"", "application/json", 400, "invalid_json"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(gateway, content, kind, status, code):
    answer = gateway().post("/v1/search", content=content, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_compressed_body_is_refused_for_nobody_knows_its_length(gateway):
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert gateway().post("/v1/search", content=b"\x1f\x8b", headers=headers).status_code == 415


@pytest.mark.parametrize(
    ("status", "http", "code"),
    [
        ("INVALID_ARGUMENT", 400, "refused_by_server"),
        ("UNAVAILABLE", 503, "server_unavailable"),
        ("DEADLINE_EXCEEDED", 504, "server_too_slow"),
        ("NOT_FOUND", 404, "not_served"),
        ("INTERNAL", 502, "server_failed"),
    ],
)
def test_an_error_of_the_inference_server_has_its_status_here(gateway, memory, status, http, code):
    client = gateway()
    assert client.post("/v1/search", json={"query": "头痛"}).status_code == 200
    memory.fault = ServerError(status, "localhost:8001: words for those who run it")
    answer = client.post("/v1/search", json={"query": "头痛"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (http, code)
    assert ("localhost" in error["message"]) == (http == 400), "its address is nobody's business"
    assert ("retry-after" in answer.headers) == (http == 503)


def test_an_answer_that_cannot_be_read_is_the_server_s_failure(gateway, memory):
    memory.fault = CareError("an output that has another shape")
    assert refused(gateway(), "/v1/search", 502, query="头痛")["code"] == "server_failed"


def test_a_server_that_takes_too_long_is_given_up(gateway, memory):
    memory.hold = asyncio.Event()
    assert refused(gateway(timeout=0.05), "/v1/search", 504, query="头痛")["code"] == "server_too_slow"
    assert memory.cancelled == 1


def test_a_server_that_does_not_even_say_what_it_serves_is_given_up(gateway, memory, monkeypatch):
    async def silent(role, *, refresh):
        await asyncio.Event().wait()

    monkeypatch.setattr(memory, "describe", silent)
    client = gateway(timeout=0.05)
    assert (
        refused(client, "/v1/embeddings", 504, input="头痛", model="care-mini")["code"] == "server_too_slow"
    )
    assert client.get("/v1/models").status_code == client.get("/v1/models/care-mini").status_code == 504
    assert client.get("/healthz").status_code == 200


def test_a_caller_who_hangs_up_leaves_no_work_behind(served, memory):
    gateway = served()
    memory.hold = asyncio.Event()
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{gateway.address}/v1/search", json={"query": "头痛"}, timeout=0.3)
    deadline = time.monotonic() + 10
    while not memory.cancelled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert memory.cancelled == 1


def test_documents_that_json_cannot_hold_do_not_spoil_an_answer(gateway, memory):
    memory.documents = [{"value": float("nan"), "list": [float("inf"), 1.5]}, "\ud800 half"]
    (found,) = gateway().post("/v1/search", json={"query": "头痛"}).json()["data"]
    assert [hit["document"] for hit in found["hits"]] == [{"value": None, "list": [None, 1.5]}, "\ud800 half"]


def test_another_model_under_the_same_address_is_noticed(gateway, memory, monkeypatch):
    client = gateway()
    assert client.get("/v1/models").json()["data"][0]["id"] == "care-mini"
    memory.name = "care-large"
    assert client.get("/v1/models").json()["data"][0]["id"] == "care-mini"
    monkeypatch.setattr("care_accel.serving.gateway.upstream._MODEL_TTL_S", -1.0)
    assert client.get("/v1/models").json()["data"][0]["id"] == "care-large"


def test_unknown_addresses_and_methods_are_answered_in_the_same_shape(gateway):
    client = gateway()
    assert client.get("/v1/completions").json()["error"]["code"] == "unknown_url"
    answer = client.get("/v1/search")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert json.loads(answer.text)["error"]["code"] == "method_not_allowed"


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9)
NAMES = st.sampled_from(
    [
        *("input", "query", "documents", "model", "k", "filter", "task", "input_type", "dimensions"),
        *("encoding_format", "top_n", "return_documents"),
    ]
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2)
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["/v1/embeddings", "/v1/search", "/v1/rerank"]),
    fields=st.dictionaries(NAMES, VALUES | st.just("care-mini") | st.just("头痛"), max_size=6),
)
def test_whatever_the_fields_hold_the_answer_is_an_answer(client, path, fields):
    answer = client.post(path, content=json.dumps(fields), headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400, 404)
    assert ("error" in answer.json()) == (answer.status_code != 200)
