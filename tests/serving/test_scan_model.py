"""The scan inside the server, as far as it needs no server."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from care_accel import Collection, ExactIndex, Retriever
from care_accel.serving.backend import live_index
from care_accel.serving.backend.live_index import RecordedModel
from care_accel.serving.scan_model import ScanModel, as_array, concatenate

from .gateway.documents.quick import Quick


@pytest.fixture
def start(python_backend, tmp_path):
    """Return a function that starts the model over a saved index of 50 vectors."""
    started = []

    def start_one(lexical=None, **parameters):
        index = ExactIndex(8)
        index.add(np.random.default_rng(0).standard_normal((50, 8), np.float32))
        documents = [f"{i} 号" for i in range(50)]
        Retriever(RecordedModel("m", 8, "r"), index, documents, lexical=lexical and lexical(documents)).save(
            tmp_path / "index"
        )
        care = {"k": 10, "most_k": 1000, "name": "m", "width": 8, "revision": "r"}
        given = {"care": care, "index": str(tmp_path / "index"), "queue": 512, "wait": 2} | parameters
        model = ScanModel()
        model.initialize(python_backend.arguments("scan", given))
        started.append(model)
        return model, index

    yield start_one
    for model in started:
        model.finalize()


def test_requests_of_one_batch_have_their_own_hits_and_mistakes(start, python_backend):
    model, index = start()
    queries = np.random.default_rng(1).standard_normal((3, 8), np.float32)
    nan = np.full((1, 8), np.nan, np.float32)
    responses = model.execute(
        [
            python_backend.request(EMBEDDING=queries[:2], K=np.array([[1], [3]], np.int32)),
            python_backend.request(EMBEDDING=nan),
            python_backend.request(EMBEDDING=queries[2:], ENCODE_TIMES=np.array([[5, 7]], np.float32)),
            python_backend.request(EMBEDDING=queries[2:], K=np.array([[1001]], np.int32)),
        ]
    )
    first, second = responses[0].arrays(), responses[2].arrays()
    assert first["IDS"].tolist() == [
        [*index.search(queries[0], 1)[1].tolist(), -1, -1],
        index.search(queries[1], 3)[1].tolist(),
    ]
    assert [json.loads(raw) for raw in first["DOCUMENTS"][0]] == [f"{first['IDS'][0, 0]} 号", None, None]
    np.testing.assert_array_equal(second["IDS"][0], index.search(queries[2], 10)[1])
    assert second["TIMES"][0, :2].tolist() == [5, 7]
    assert responses[1].error == ("INVALID_ARG", "EMBEDDING 0 has a value that is not finite")
    assert responses[3].error == ("INVALID_ARG", "K 0 is 1001; it must be 1 to 1,000")


def test_a_hybrid_index_needs_the_text_as_well(start, python_backend):
    from care_accel.index import BM25Index

    model, _ = start(lexical=BM25Index)
    query = np.ones((1, 8), np.float32)
    text = np.array([["7 号".encode()]], dtype=object)
    without, whole = model.execute(
        [python_backend.request(EMBEDDING=query), python_backend.request(EMBEDDING=query, TEXT=text)]
    )
    assert without.error == (
        "INVALID_ARG",
        "this index is hybrid (vectors and BM25) and needs TEXT as well",
    )
    assert whole.arrays()["IDS"].shape == (1, 10)


def test_filters_are_answered_when_the_version_that_is_open_has_been_removed(
    start, python_backend, tmp_path, monkeypatch
):
    monkeypatch.setattr(live_index, "_POLL_S", 60)  # the model has not looked since
    made = Collection.create(tmp_path / "c", Quick())
    made.upsert([{"id": f"d{i}", "text": f"{i}", "year": i} for i in range(20)])
    care = {"k": 10, "most_k": 1000, "name": "quick", "width": 8, "revision": "sha256:1"}
    model, _ = start(index=str(tmp_path / "c"), care=care)
    made.upsert([{"id": "d19", "text": "19", "year": 1}])
    made.compact(keep_days=0)
    query = Quick().encode_query(["17"])
    requests = [
        python_backend.request(EMBEDDING=query, FILTER=np.array([[f"year >= {year}".encode()]], object))
        for year in (15, 18)
    ]
    found = [response.arrays()["DOCUMENT_IDS"][0] for response in model.execute(requests)]
    assert [{name.decode() for name in names if name} for names in found] == [
        {f"d{i}" for i in range(year, 19)} for year in (15, 18)
    ]


def test_a_tensor_on_the_gpu_stays_there():
    values = np.ones((2, 8), np.float32)
    on_gpu = SimpleNamespace(is_cpu=lambda: False, to_dlpack=lambda: torch.from_numpy(values).__dlpack__())
    assert isinstance(as_array(on_gpu), torch.Tensor)
    assert as_array(SimpleNamespace(is_cpu=lambda: True, as_numpy=lambda: values)) is values


def test_requests_from_the_gpu_and_from_elsewhere_are_joined_there():
    values = np.arange(4, dtype=np.float32).reshape(2, 2)
    assert isinstance(concatenate([values, values]), np.ndarray)
    both = concatenate([values, torch.from_numpy(values)])
    assert isinstance(both, torch.Tensor)
    np.testing.assert_array_equal(both.numpy(), np.concatenate([values, values]))
