"""Hits of a batch of queries where the index is, and documents as JSON."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from care_accel import ExactIndex, Retriever
from care_accel.serving.backend import open_index
from care_accel.serving.backend.live_index import RecordedModel
from care_accel.serving.backend.open_index import OpenIndex


class Documents:
    """Stands for a retriever's documents, and counts how often one is asked for."""

    index = ExactIndex(3)
    lexical = None

    def __init__(self):
        self.asked = []

    def document(self, position):
        self.asked.append(position)
        return {"title": f"第{position}号"}


def test_documents_are_json_and_null_where_there_is_none():
    found = OpenIndex(Documents()).documents(np.array([[2, 0, -1], [0, -1, -1]]))
    assert [[json.loads(raw) for raw in row] for row in found] == [
        [{"title": "第2号"}, {"title": "第0号"}, None],
        [{"title": "第0号"}, None, None],
    ]
    assert "第2号".encode() in found[0, 0]


def test_a_document_is_written_once(monkeypatch):
    monkeypatch.setattr(open_index, "_CACHED_DOCUMENTS", 3)  # null is one of them
    retriever = Documents()
    kept = OpenIndex(retriever)
    for _ in range(2):
        kept.documents(np.array([[0, 1, 2]]))
    assert retriever.asked == [0, 1, 2, 2]  # for the last one there was no room


def test_a_document_with_half_of_a_surrogate_pair_does_not_fail_the_batch_it_is_found_in():
    document = "发热\ud83d要多喝水"
    retriever = Documents()
    retriever.document = lambda position: document
    found = OpenIndex(retriever).documents(np.array([[0]]))
    assert json.loads(found[0, 0]) == document


class OnDevice:
    """Stands for an index on a GPU: takes and gives tensors, which lie in memory here."""

    device, width, threads = "cuda:0", 8, 1

    def __init__(self, index):
        self._index = index

    def __len__(self):
        return len(self._index)

    def search_on_device(self, vectors, k):
        assert isinstance(vectors, torch.Tensor)
        return tuple(torch.from_numpy(found) for found in self._index.search(vectors.numpy(), k))


@pytest.fixture(scope="module")
def index():
    index = ExactIndex(8)
    index.add(np.random.default_rng(0).standard_normal((50, 8), np.float32))
    return index


@pytest.mark.parametrize("ks", [[3, 3, 3], [1, 4, 2], [60, 2, 7]])
def test_vectors_that_lie_on_the_gpu_find_the_same_there(index, ks):
    queries = np.random.default_rng(1).standard_normal((3, 8), np.float32)
    here = OpenIndex(Retriever(RecordedModel("m", 8, "r"), index))
    there = OpenIndex(SimpleNamespace(index=OnDevice(index), lexical=None))
    expected = here.search(queries, ks, None)
    found = there.search(torch.from_numpy(queries), ks, None)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_vectors_of_a_gpu_are_searched_where_the_index_is(index):
    queries, ks = np.ones((2, 8), np.float32), [3, 3]
    here = OpenIndex(Retriever(RecordedModel("m", 8, "r"), index))
    for one, other in zip(
        here.search(torch.from_numpy(queries), ks, None), here.search(queries, ks, None), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_each_query_has_the_hits_of_its_own_k_in_any_batch(index, ks, seed):
    queries = np.random.default_rng(seed).standard_normal((len(ks), 8), np.float32)
    open_ = OpenIndex(Retriever(RecordedModel("m", 8, "r"), index))
    scores, ids, rescored = open_.search(queries, ks, None)
    assert ids.shape == scores.shape == (len(ks), max(ks))
    assert rescored > 0
    for query, k, found, values in zip(queries, ks, ids, scores, strict=True):
        expected = index.search(query, k)
        np.testing.assert_array_equal(values[:k], expected[0])
        np.testing.assert_array_equal(found[:k], expected[1])
        assert (found[k:] == -1).all()
        assert np.isneginf(values[k:]).all()


@given(
    st.lists(st.one_of(st.none(), st.lists(st.integers(0, 49), max_size=60)), min_size=1, max_size=6),
    st.integers(0, 2**32 - 1),
)
def test_each_query_has_the_hits_of_its_own_subset_in_any_batch(index, subsets, seed):
    queries = np.random.default_rng(seed).standard_normal((len(subsets), 8), np.float32)
    open_ = OpenIndex(Retriever(RecordedModel("m", 8, "r"), index))
    as_bytes = [None if one is None else np.array(one, np.int64).tobytes() for one in subsets]
    scores, ids, _ = open_.search(queries, [4] * len(subsets), None, as_bytes)
    for query, subset, found, values in zip(queries, subsets, ids, scores, strict=True):
        expected = index.search(query, 4, subset=subset)
        np.testing.assert_array_equal(values, expected[0])
        np.testing.assert_array_equal(found, expected[1])
