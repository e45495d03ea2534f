"""The search inside the server, as far as it needs no server: the library's hits, batched."""

import json
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from care_accel import CareError, DualEncoder, Retriever
from care_accel.serving.search_model import SearchModel

DOCUMENTS = [
    "高血压患者应低盐饮食",
    "糖尿病患者要控制主食",
    "感冒发热多饮水",
    "骨折后应固定",
    "头痛三天",
    "肚子痛",
]
QUERIES = ["头痛怎么办", "血糖高吃什么？", "发热", "高血压怎么治" * 30, "a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_folders):
    """Return a folder with a saved model and, by it, plain and hybrid retrievers."""
    folder = tmp_path_factory.mktemp("search")
    model = DualEncoder.from_pretrained(
        query=tiny_folders / "query_encoder",
        document=tiny_folders / "document_encoder",
        preset="care",
        width=24,
    )
    model.save_pretrained(folder / "model")
    model = DualEncoder.from_pretrained(folder / "model")
    for lexical in (False, True):
        Retriever.from_documents(model, DOCUMENTS, lexical=lexical).save(folder / str(lexical))
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return DualEncoder.from_pretrained(folder / "model")


@pytest.fixture
def start(python_backend, folder, model):
    """Return a function that starts the model."""
    started = []

    def start_one(index=folder / "False", **changes):
        care = {"name": model.name, "width": 24, "revision": model.revision("document")}
        care |= {"query_revision": model.revision("query"), "k": 3, "most_k": 5}
        parameters = {
            "care": care | changes.pop("care", {}),
            "load": {"model": str(folder / "model")},
            "index": str(index),
            **{"token_budget": 512, "cached_texts": 100, "warm_up_batch": 1, "on_device": False},
            **{"queue": 512, "wait": 2},
        }
        made = SearchModel()
        made.initialize(python_backend.arguments("search", parameters | changes))
        started.append(made)
        return made

    yield start_one
    for made in started:
        made.finalize()


def column(values, dtype=object):
    return np.array([[v.encode() if isinstance(v, str) else v] for v in values], dtype=dtype)


def hits_of(response, row=0):
    arrays = response.arrays()
    return [
        (i, s, json.loads(d))
        for i, s, d in zip(
            arrays["IDS"][row].tolist(), arrays["SCORES"][row].tolist(), arrays["DOCUMENTS"][row], strict=True
        )
        if i >= 0
    ]


def expected(retriever, text, k, task="retrieval"):
    vectors = retriever.model.encode_query([text], task=task)
    scores, ids, _ = retriever.search_vectors(vectors, k, [text])
    return [
        (i, pytest.approx(s, abs=1e-5), DOCUMENTS[i])
        for i, s in zip(ids[0].tolist(), scores[0].tolist(), strict=True)
        if i >= 0
    ]


@pytest.fixture(params=["vectors", "vectors and words"])
def served_and_library(request, start, folder, model):
    index = folder / str(request.param != "vectors")
    return start(index), Retriever.load(index, model)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.data())
def test_hits_are_the_library_s_however_requests_are_batched(served_and_library, python_backend, data):
    served, retriever = served_and_library
    asked = data.draw(
        st.lists(
            st.lists(
                st.tuples(st.sampled_from(QUERIES), st.sampled_from(["retrieval", "sts"]), st.integers(1, 5)),
                min_size=1,
                max_size=3,
            ),
            min_size=1,
            max_size=4,
        )
    )
    requests = [
        python_backend.request(
            TEXT=column([text for text, _, _ in one]),
            TASK=column([task for _, task, _ in one]),
            K=column([k for _, _, k in one], np.int32),
        )
        for one in asked
    ]
    for one, response in zip(asked, served.execute(requests), strict=True):
        arrays = response.arrays()
        assert arrays["TOKENS"].shape == (len(one), 1)
        assert arrays["TIMES"].shape == (len(one), 3)
        assert arrays["IDS"].shape == (len(one), max(k for _, _, k in one))
        for row, (text, task, k) in enumerate(one):
            assert hits_of(response, row) == expected(retriever, text, k, task)


def test_a_request_without_options_has_the_default_k_and_task(start, python_backend, folder, model):
    (response,) = start().execute([python_backend.request(TEXT=column(["头痛"]))])
    assert hits_of(response) == expected(Retriever.load(folder / "False", model), "头痛", 3)
    outputs = response.arrays()
    assert {name: values.dtype.name for name, values in outputs.items()} == {
        **{"IDS": "int64", "SCORES": "float32", "DOCUMENTS": "object", "TOKENS": "int32", "TIMES": "float32"}
    }
    assert outputs["TOKENS"].tolist() == [[len(model.encoder("query").tokenize(["头痛"])[0])]]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"TEXT": ["头痛", ""]}, "TEXT 1 is empty; send a non-empty text"),
        ({"TEXT": [b"\xff"]}, "TEXT 0 is not UTF-8 at byte 0; encode it as UTF-8"),
        (
            {"TEXT": ["a"], "TASK": ["dance"]},
            "TASK 0 is 'dance'; it must be one of retrieval, reranking, sts",
        ),
        ({"TEXT": ["a"], "K": [6]}, "K 0 is 6; it must be 1 to 5"),
        ({"TEXT": ["a", "b"], "K": [1, 0]}, "K 1 is 0; it must be 1 to 5"),
    ],
)
def test_a_wrong_request_is_refused_and_the_others_of_its_batch_are_answered(
    start, python_backend, inputs, message
):
    wrong = python_backend.request(
        **{name: column(values, np.int32 if name == "K" else object) for name, values in inputs.items()}
    )
    right = python_backend.request(TEXT=column(["头痛"]))
    first, refused, last = start().execute([right, wrong, right])
    assert refused.error == ("INVALID_ARG", message)
    assert hits_of(first) == hits_of(last)
    assert len(hits_of(first)) == 3


def test_a_failure_is_told_without_a_text_and_the_model_goes_on(start, python_backend, monkeypatch):
    served = start()
    request = python_backend.request(TEXT=column(["只有病人知道"]))

    def fail(*_):
        raise ValueError("只有病人知道")

    with monkeypatch.context() as patch:
        patch.setattr(served._vectors.encoder, "tokenize", fail)
        for response in served.execute([request, request]):
            assert response.error == ("INTERNAL", "the model failed: ValueError")
    assert len(hits_of(served.execute([request])[0])) == 3


def test_all_are_refused_while_too_many_wait(start, python_backend, monkeypatch):
    served = start()
    monkeypatch.setattr(served._backlog, "overload_reason", lambda requests: "9 requests wait")
    request = python_backend.request(TEXT=column(["头痛"]))
    assert [r.error for r in served.execute([request] * 2)] == [("UNAVAILABLE", "9 requests wait")] * 2
    served.finalize()
    assert python_backend.metrics["care_refused_requests_total", "search", ""] == 2


def test_metrics_count_texts_and_the_scan(start, python_backend):
    served = start()
    request = python_backend.request(TEXT=column(["头痛", "长" * 3000]))
    for _ in range(2):
        served.execute([request])
    served.finalize()
    found = {
        (name, role): value
        for (name, model, role), value in python_backend.metrics.items()
        if model == "search"
    }
    assert found["care_texts_total", "query"] == 4
    assert found["care_cached_texts_total", "query"] == 2
    assert found["care_truncated_texts_total", "query"] == 1
    assert found["care_queries_total", ""] == 4
    for name in ("tokenise_seconds", "encode_seconds"):
        assert found[f"care_{name}_total", "query"] > 0
    assert found["care_scan_seconds_total", ""] > 0
    assert found["care_rescored_candidates_total", ""] > 0


def test_a_replaced_index_goes_live_and_a_batch_has_hits_of_one_index(
    start, python_backend, folder, model, tmp_path
):
    Retriever.from_documents(model, DOCUMENTS).save(tmp_path / "index")
    served = start(tmp_path / "index")
    new = [f"新的{document}" for document in DOCUMENTS]
    Retriever.from_documents(model, new).save(tmp_path / "index")
    requests = [python_backend.request(TEXT=column(["头痛"]), K=column([5], np.int32))] * 3
    seen, end = set(), time.monotonic() + 30
    while "new" not in seen and time.monotonic() < end:
        for response in served.execute(requests):
            (kind,) = {"new" if d.startswith("新的") else "old" for _, _, d in hits_of(response)}
            seen.add(kind)
    assert "new" in seen


@pytest.mark.parametrize(
    ("care", "message"),
    [
        ({"query_revision": "sha256:q"}, "this repository was written for query encoder sha256:q, but "),
        ({"revision": "sha256:d"}, "the index was made by document encoder sha256:.*, but .* has sha256:d"),
    ],
)
def test_another_encoder_or_index_than_the_recorded_one_is_refused(start, care, message):
    with pytest.raises(CareError, match=message):
        start(care=care)
