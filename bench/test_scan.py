"""Exact top-k search beside what an engineer would use instead.

Peers: NumPy's product and partition; faiss IndexFlatIP as it ships; the same with its matrix product on
(it ships with a threshold that keeps it off). The limit is one read of all vectors at the machine's read
bandwidth, measured in the same run.
"""

from __future__ import annotations

import numpy as np
import pytest

from care_accel import ExactIndex

# vectors, width, queries at a time
CASES = {
    "smoke": [(2_000, 192, 1), (2_000, 192, 8)],
    "default": [(50_000, 768, 1), (50_000, 768, 8), (50_000, 768, 32)],
    "full": [(200_000, 768, 1), (200_000, 768, 8), (200_000, 768, 32), (200_000, 768, 128)],
}
K = 10


def ours(vectors):
    index = ExactIndex(vectors.shape[1])
    index.add(vectors)
    return lambda queries: index.search(queries, k=K)[1]


def numpy_product(vectors):
    def search(queries):
        scores = queries @ vectors.T
        best = np.argpartition(-scores, K, axis=1)[:, :K]
        order = np.take_along_axis(scores, best, axis=1).argsort(axis=1)[:, ::-1]
        return np.take_along_axis(best, order, axis=1)

    return search


def faiss_flat(vectors, blas_threshold=None):
    faiss = pytest.importorskip("faiss", reason="the peer faiss is not installed (extra bench)")
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    shipped = faiss.cvar.distance_compute_blas_threshold

    def search(queries):
        faiss.cvar.distance_compute_blas_threshold = blas_threshold or shipped
        try:
            return index.search(queries, K)[1]
        finally:
            faiss.cvar.distance_compute_blas_threshold = shipped

    return search


ENGINES = {
    "care_accel ExactIndex": ours,
    "NumPy product, partition": numpy_product,
    "faiss IndexFlatIP": faiss_flat,
    "faiss IndexFlatIP, BLAS on": lambda vectors: faiss_flat(vectors, blas_threshold=1),
}


def pytest_generate_tests(metafunc):
    cases = CASES[metafunc.config.getoption("--bench-size")]
    metafunc.parametrize("case", cases, ids=lambda c: "x".join(map(str, c)), scope="module")
    metafunc.parametrize("engine", ENGINES)


@pytest.fixture(scope="module")
def data(case):
    rows, width, count = case
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((rows, width), dtype=np.float32)
    queries = rng.standard_normal((count, width), dtype=np.float32)
    return tuple(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (vectors, queries))


def test_search(benchmark, engine, case, data, read_bandwidth):
    vectors, queries = data
    search = ENGINES[engine](vectors)
    benchmark.group = f"top {K} of {case[0]:,} x {case[1]}, {case[2]} queries at a time"
    benchmark.extra_info |= {
        "name": engine,
        "ours": engine.startswith("care_accel"),
        "share_of_limit_bytes": vectors.nbytes / read_bandwidth,
        "read_bandwidth": read_bandwidth,
    }
    found = benchmark(search, queries)
    expected = np.argsort(-(queries.astype(np.float64) @ vectors.T.astype(np.float64)), axis=1)[:, 0]
    assert (found[:, 0] == expected).mean() > 0.99  # float32 peers may swap two that are nearly equal
