"""What a plain client of the real server gets: the library's vectors and hits, and a clear word for bad input."""

import json
import subprocess
import time
import urllib.request

import numpy as np
import pytest

from care_accel.eval.command import DEMO
from care_accel.files import read_jsonl

from .conftest import tensors

grpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed (extra server)")
http = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed (extra server)")

TEXTS = ["高血压怎么治", "a", " ", "孩子发烧三天了，咳嗽有痰。" * 40, "😷�糖尿病\n吃什么", "x" * 5000]


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("task", [None, "retrieval", "reranking", "sts"])
def test_vectors_are_the_library_s(client, model, role, task):
    given = {} if task is None else {"TASK": task}
    answer = client.infer(f"{role}_encoder", tensors(grpc, TEXTS, **given))
    encode = model.encode_query if role == "query" else model.encode_document
    expected = encode(TEXTS, task=task or "retrieval")
    np.testing.assert_allclose(answer.as_numpy("EMBEDDING"), expected, atol=1e-5)


@pytest.mark.parametrize("library", [grpc, http])
def test_hits_are_the_library_s(server, demo, library):
    queries = [row["text"] for _, row in read_jsonl(DEMO / "retrieval" / "care-demo" / "queries.jsonl")][:40]
    with library.InferenceServerClient(server.grpc if library is grpc else server.http) as client:
        answer = client.infer("search", tensors(library, queries, K=7))
    for position, hits in enumerate(demo.search(queries, k=7)):
        assert answer.as_numpy("IDS")[position].tolist() == [hit.id for hit in hits]
        scores = answer.as_numpy("SCORES")[position]
        np.testing.assert_allclose(scores, [hit.score for hit in hits], atol=1e-5)
        found = [json.loads(raw) for raw in answer.as_numpy("DOCUMENTS")[position]]
        assert found == [hit.document for hit in hits]


def test_curl_gets_hits(server, demo):
    text = {"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["血压高怎么办"]}
    done = subprocess.run(
        [
            "curl",
            "-sS",
            f"http://{server.http}/v2/models/search/infer",
            "-d",
            json.dumps({"inputs": [text]}, ensure_ascii=False),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    outputs = {one["name"]: one["data"] for one in json.loads(done.stdout)["outputs"]}
    assert outputs["IDS"] == [hit.id for hit in demo.search("血压高怎么办")]


def test_each_text_may_want_its_own_number_of_hits(client, demo):
    ks = np.array([[1], [3], [2]], np.int32)
    answer = client.infer("search", tensors(grpc, TEXTS[:3], K=ks))
    ids = answer.as_numpy("IDS")
    assert ids.shape == (3, 3)
    for row, text, k in zip(ids, TEXTS, ks.ravel(), strict=False):
        assert row[:k].tolist() == [hit.id for hit in demo.search(text, k=int(k))]
        assert (row[k:] == -1).all()
    assert (answer.as_numpy("DOCUMENTS")[0, 1:] == b"null").all()
    assert np.isneginf(answer.as_numpy("SCORES")[0, 1:]).all()


def test_more_hits_than_documents_end_with_none(client, demo):
    answer = client.infer("search", tensors(grpc, ["头痛"], K=1000))
    ids = answer.as_numpy("IDS")[0]
    count = len(demo.index)
    assert sorted(ids[:count]) == list(range(count))
    assert (ids[count:] == -1).all()


def test_tokens_and_times_come_along(client, model):
    texts = [f"{text}{time.time()}" for text in TEXTS]
    answer = client.infer("search", tensors(grpc, texts))
    expected = [len(ids) for ids in model.encoder("query").tokenize(texts)]
    assert answer.as_numpy("TOKENS").ravel().tolist() == expected
    assert answer.as_numpy("TIMES").shape == (len(texts), 3)
    assert (answer.as_numpy("TIMES") > 0).all()


def test_a_part_of_the_outputs_can_be_asked_for_in_any_order(client):
    text = [f"只要向量 {time.time()}"]
    wanted = [grpc.InferRequestedOutput("TOKENS")]
    some = client.infer("query_encoder", tensors(grpc, text), outputs=wanted)
    assert some.as_numpy("EMBEDDING") is None
    whole = client.infer("query_encoder", tensors(grpc, text))
    assert whole.as_numpy("EMBEDDING").shape == (1, 384)
    np.testing.assert_array_equal(whole.as_numpy("TOKENS"), some.as_numpy("TOKENS"))


def test_a_query_that_is_asked_again_has_the_same_vector_and_other_tasks_their_own(client, model):
    text = [f"同一个问题 {time.time()}"]
    first, second = (
        client.infer("query_encoder", tensors(grpc, text)).as_numpy("EMBEDDING") for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    other = client.infer("query_encoder", tensors(grpc, text, TASK="sts")).as_numpy("EMBEDDING")
    np.testing.assert_allclose(other, model.encode_query(text, task="sts"), atol=1e-5)


def test_a_refused_request_is_refused_again(client):
    for _ in range(3):
        with pytest.raises(grpc.InferenceServerException, match="TEXT 0 is empty"):
            client.infer("query_encoder", tensors(grpc, [""]))


WRONG = {
    "an empty query": ("search", {"texts": [""]}, "TEXT 0 is empty"),
    "an empty text for the encoder": ("query_encoder", {"texts": ["好", ""]}, "TEXT 1 is empty"),
    "a text of 1 MB": ("search", {"texts": ["病" * 333_334]}, "TEXT 0 has 1,000,002 bytes; at most 100,000"),
    "a document of 1 MB": ("document_encoder", {"texts": ["x" * 10**6]}, "TEXT 0 has 1,000,000 bytes"),
    "bytes that are not UTF-8": ("search", {"texts": [b"\xff\xfe\xba"]}, "TEXT 0 is not UTF-8 at byte 0"),
    "half a character": ("query_encoder", {"texts": [b"a\xe9\xab"]}, "TEXT 0 is not UTF-8 at byte 1"),
    "k of 0": ("search", {"texts": ["a"], "K": 0}, "K 0 is 0; it must be 1 to 1,000"),
    "k below 0": ("search", {"texts": ["a"], "K": -1}, "K 0 is -1; it must be 1 to 1,000"),
    "k of a billion": ("search", {"texts": ["a"], "K": 10**9}, "K 0 is 1000000000; it must be 1 to 1,000"),
    "a task that there is not": (
        "search",
        {"texts": ["a"], "TASK": "dance"},
        "TASK 0 is 'dance'; it must be one of",
    ),
    "k of another type": ("search", {"texts": ["a"], "K": np.ones((1, 1), np.int64)}, "data-type"),
    "k of another shape": ("search", {"texts": ["a"], "K": np.ones((1, 2), np.int32)}, "shape"),
    "a text of another shape": (
        "search",
        {"TEXT": np.array([[b"a", b"b"]], dtype=object)},
        "shape",
    ),
    "texts of another type": ("search", {"TEXT": np.ones((1, 1), np.float32)}, "data-type"),
    "more texts than a batch holds": ("search", {"texts": ["a"] * 65}, "batch-size must be <= 64"),
    "no text at all": ("search", {"K": np.ones((1, 1), np.int32)}, "TEXT is missing; it is expected"),
    "a task alone": ("query_encoder", {"TASK": np.array([[b"sts"]], dtype=object)}, "TEXT is missing"),
    "k alone": ("scan", {"K": np.ones((1, 1), np.int32)}, "EMBEDDING is missing"),
    "an input that there is not": ("search", {"texts": ["a"], "WHAT": True}, "unexpected inference input"),
    "a vector that is not finite": (
        "scan",
        {"EMBEDDING": np.full((1, 384), np.nan, np.float32)},
        "EMBEDDING 0 has a value that is not finite",
    ),
    "a vector of another width": ("scan", {"EMBEDDING": np.ones((1, 3), np.float32)}, "shape"),
}


@pytest.mark.parametrize("library", [grpc, http])
@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_refused_and_the_next_request_works(server, library, case):
    name, given, message = WRONG[case]
    given = dict(given)
    with library.InferenceServerClient(server.grpc if library is grpc else server.http) as client:
        with pytest.raises(library.InferenceServerException) as refused:
            client.infer(name, tensors(library, given.pop("texts", None), **given))
        assert message in str(refused.value)
        assert ("INVALID_ARGUMENT" if library is grpc else "400") in str(refused.value.status())
        assert client.infer("search", tensors(library, ["高血压"])).as_numpy("IDS").shape == (1, 10)


def test_an_empty_document_has_the_library_s_vector(client, model):
    answer = client.infer("document_encoder", tensors(grpc, ["", "好"]))
    np.testing.assert_allclose(answer.as_numpy("EMBEDDING"), model.encode_document(["", "好"]), atol=1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.load_model("scan"),
        lambda c: c.unload_model("scan"),
        lambda c: c.get_model_repository_index(),
        lambda c: c.register_system_shared_memory("a", "/a", 8),
        lambda c: c.get_system_shared_memory_status(),
        lambda c: c.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}),
        lambda c: c.get_log_settings(),
    ],
)
@pytest.mark.parametrize("library", [grpc, http])
def test_what_changes_the_server_is_restricted(server, library, call):
    with (
        library.InferenceServerClient(server.grpc if library is grpc else server.http) as client,
        pytest.raises(library.InferenceServerException, match="restricted"),
    ):
        call(client)


def test_the_metrics_page_has_our_counters(server, client):
    page = ""

    def value(line_start):
        rows = [line for line in page.splitlines() if line.startswith(line_start)]
        return float(rows[0].rsplit(" ", 1)[1]) if rows else 0.0

    for _ in range(2):
        client.infer("search", tensors(grpc, texts := ["长" * 3000 + str(time.time()), "又来了"]))
        client.infer("query_encoder", tensors(grpc, texts))
        client.infer("scan", tensors(grpc, EMBEDDING=np.ones((1, 384), np.float32)))
    client.infer("document_encoder", tensors(grpc, ["文"]))
    end = time.monotonic() + 20
    wanted = [
        *(
            f'care_{name}_total{{model="{model}",role="query"}}'
            for name in ("tokenise_seconds", "encode_seconds", "cached_texts", "truncated_texts")
            for model in ("query_encoder", "search")
        ),
        'care_encode_seconds_total{model="document_encoder",role="document"}',
        *(
            f'care_{name}_total{{model="{model}"}}'
            for name in ("scan_seconds", "rescored_candidates")
            for model in ("scan", "search")
        ),
    ]
    while time.monotonic() < end and not all(value(line) > 0 for line in wanted):
        time.sleep(0.2)
        page = urllib.request.urlopen(f"http://{server.metrics}/metrics").read().decode()
    assert [line for line in wanted if value(line) <= 0] == []


def test_no_text_of_a_query_is_in_the_log(server, client):
    secret = f"只有病人知道 {time.time()}"
    client.infer("search", tensors(grpc, [secret]))
    with pytest.raises(grpc.InferenceServerException):
        client.infer("search", tensors(grpc, [secret], K=0))
    assert "只有病人知道" not in server.log.read_text(encoding="utf-8", errors="replace")
