"""The scan inside the server, as far as it needs no server."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from care_accel import CareError, ExactIndex, Retriever
from care_accel import retriever as retriever_module
from care_accel.serving import scan_model


class Found:
    """Stands for a retriever's documents, and counts how often one is asked for."""

    def __init__(self):
        self.asked = []

    def document(self, position):
        self.asked.append(position)
        return {"title": f"第{position}号"}


def test_documents_are_json_and_null_where_there_is_none():
    found = scan_model.DocumentCache(Found()).get(np.array([[2, 0, -1], [0, -1, -1]]))
    assert [[json.loads(raw) for raw in row] for row in found] == [
        [{"title": "第2号"}, {"title": "第0号"}, None],
        [{"title": "第0号"}, None, None],
    ]
    assert "第2号".encode() in found[0, 0]


def test_a_document_is_written_once(monkeypatch):
    monkeypatch.setattr(scan_model, "_CACHED_DOCUMENTS", 3)  # null is one of them
    retriever = Found()
    kept = scan_model.DocumentCache(retriever)
    for _ in range(2):
        kept.get(np.array([[0, 1, 2]]))
    assert retriever.asked == [0, 1, 2, 2]  # for the last one there was no room


def test_a_document_with_half_of_a_surrogate_pair_does_not_fail_the_batch_it_is_found_in():
    document = "发热\ud83d要多喝水"
    found = scan_model.DocumentCache(SimpleNamespace(document=lambda position: document)).get(np.array([[0]]))
    assert json.loads(found[0, 0]) == document


@pytest.fixture
def watching(tmp_path):
    """Return a function that starts a scan model over a saved index, with a log in place of its server's."""
    started = []

    def start(monkeypatch):
        said = []
        parameters = {
            "care": {"k": 10, "most_k": 1000, "name": "m", "width": 8, "revision": "r"},
            "index": str(tmp_path / "index"),
        }
        backend = SimpleNamespace(
            parameters=parameters,
            folder=str(tmp_path),
            path=Path,
            device="cpu",
            backlog=lambda: None,
            log=said.append,
            count=lambda *_: None,
            end=lambda: None,
        )
        monkeypatch.setattr(scan_model, "Backend", lambda args: backend)
        monkeypatch.setattr(scan_model, "_POLL_S", 0.01)
        model = scan_model.ScanModel()
        started.append(model)
        model.initialize({})
        return model, said

    yield start
    for model in started:
        model.finalize()


def saved(folder, index, name):
    made_by = scan_model.RecordedModel("m", 8, "r")
    Retriever(made_by, index, [f"{name} {i}" for i in range(len(index))]).save(folder)


@pytest.mark.parametrize("when", ["while the model loads", "while a new one is opened"])
def test_an_index_that_is_replaced_while_it_is_read_is_read_again(
    monkeypatch, tmp_path, index, watching, when
):
    """Its documents would be those of one index and its vectors those of another."""
    folder, live = tmp_path / "index", []
    read_documents = retriever_module.read_json_values
    first = "old" if when == "while the model loads" else "middle"

    def interrupted(file):
        values = list(read_documents(file))
        if values[0][1] == f"{first} 0" and not live:
            live.append("replaced")
            saved(folder, index, "new")
        return values

    monkeypatch.setattr(retriever_module, "read_json_values", interrupted)
    saved(folder, index, "old")
    model, said = watching(monkeypatch)
    seen = {model.retriever.document(0)}
    if first == "middle":
        saved(folder, index, "middle")
    end = time.monotonic() + 30
    while "new 0" not in seen and time.monotonic() < end:
        seen.add(model.retriever.document(0))
    assert seen == ({"new 0"} if first == "old" else {"old 0", "new 0"})
    assert not any("refused" in line for line in said)


class OnDevice:
    """Stands for an index on a GPU: takes and gives tensors, which lie in memory here."""

    device = "cuda:0"

    def __init__(self, index):
        self._index = index

    def search_on_device(self, vectors, k):
        assert isinstance(vectors, torch.Tensor)
        return tuple(torch.from_numpy(found) for found in self._index.search(vectors.numpy(), k))


@pytest.fixture
def index():
    index = ExactIndex(8)
    index.add(np.random.default_rng(0).standard_normal((50, 8), np.float32))
    return index


@pytest.mark.parametrize("ks", [[3, 3, 3], [1, 4, 2], [60, 2, 7]])
def test_vectors_that_lie_on_the_gpu_find_the_same_there(index, ks):
    queries = np.random.default_rng(1).standard_normal((3, 8), np.float32)
    ks = np.array(ks, np.int32)
    here = Retriever(scan_model.RecordedModel("m", 8, "r"), index)
    there = SimpleNamespace(index=OnDevice(index), lexical=None)
    expected = scan_model.search_together(here, queries, ks, None)
    found = scan_model.search_together(there, torch.from_numpy(queries), ks, None)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_vectors_are_searched_where_the_index_is(index):
    values = np.ones((2, 8), np.float32)
    tensor = SimpleNamespace(is_cpu=lambda: False, to_dlpack=lambda: torch.from_numpy(values).__dlpack__())
    on_gpu = SimpleNamespace(index=OnDevice(index), lexical=None)
    assert isinstance(scan_model.ScanModel._vectors(tensor, on_gpu), torch.Tensor)
    for elsewhere in (
        SimpleNamespace(index=index, lexical=None),
        SimpleNamespace(index=OnDevice(index), lexical=object()),  # words are fused on the processor
    ):
        found = scan_model.ScanModel._vectors(tensor, elsewhere)
        np.testing.assert_array_equal(found, values)


def test_requests_from_the_gpu_and_from_elsewhere_are_joined_there():
    values = np.arange(4, dtype=np.float32).reshape(2, 2)
    assert isinstance(scan_model.concatenate([values, values]), np.ndarray)
    both = scan_model.concatenate([values, torch.from_numpy(values)])
    assert isinstance(both, torch.Tensor)
    np.testing.assert_array_equal(both.numpy(), np.concatenate([values, values]))


def test_a_build_without_cuda_scans_on_the_processor_and_says_so(monkeypatch):
    def refuse(device):
        raise CareError("this build has no CUDA parts")

    monkeypatch.setattr(scan_model, "require_cuda", refuse)
    said = []
    assert scan_model.scan_device(SimpleNamespace(device="cuda:1", log=said.append)) == "cpu"
    assert said == ["the scan runs on the CPU: this build has no CUDA parts"]
    assert scan_model.scan_device(SimpleNamespace(device="cpu", log=said.append)) == "cpu"
