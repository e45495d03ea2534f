"""Exact top-k search beside what an engineer would use instead.

Exact peers, in float32: faiss IndexFlatIP as it ships, and with its matrix product on for any batch (it ships with a
threshold that keeps it off for small ones); NumPy's and torch's product and selection; usearch. For information,
since they are not exact: torch in bfloat16, faiss in float16. The limits: one read of all codes at the read bandwidth,
all products at the int8 rate of torch's own matrix product, both measured in the same run.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from care_accel import DualEncoder, ExactIndex, _native

# kind, vectors, width, queries at a time
CASES = {
    "smoke": [("gaussian", 2_000, 192, 1), ("embeddings", 40, 0, 8)],
    "default": [("gaussian", 50_000, 768, queries) for queries in (1, 8, 32, 128)],
    "full": [
        (kind, 200_000, 768, queries)
        for kind in ("gaussian", "clustered", "power-law", "indistinct")
        for queries in (1, 8, 32, 128)
    ]
    + [("embeddings", 50_000, 0, queries) for queries in (1, 8, 32, 128)],
}
# vectors, width, k, threads: how our own time grows, for one query.
GROWTH = {
    "smoke": [(1_000, 64, 1, 1)],
    "default": [(10_000, 768, 10, 2), (100_000, 768, 10, 2)],
    "full": [
        *((rows, 768, 10, 2) for rows in (10_000, 30_000, 100_000, 300_000, 1_000_000)),
        *((200_000, width, 10, 2) for width in (64, 128, 256, 512, 1024)),
        *((200_000, 768, k, 2) for k in (1, 100, 1000)),
        (200_000, 768, 10, 1),
    ],
}
K = 10


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def gaussian(rng, rows, width):
    return unit(rng.standard_normal((rows, width), dtype=np.float32))


def clustered(rng, rows, width):
    centres = gaussian(np.random.default_rng(7), 200, width)
    return unit(centres[rng.integers(0, 200, rows)] + 0.5 * gaussian(rng, rows, width))


def power_law(rng, rows, width):
    """Values whose deviation falls as the square root of their place, about a mean that all share."""
    deviations = np.arange(1, width + 1, dtype=np.float32) ** -0.5
    mean = 0.1 * np.random.default_rng(7).standard_normal(width, dtype=np.float32)
    return unit(rng.standard_normal((rows, width), dtype=np.float32) * deviations + mean)


def indistinct(rng, rows, width):
    """A few values that vary four hundred times as much as the rest, which alone decide: codes are no help."""
    vectors = rng.standard_normal((rows, width), dtype=np.float32)
    vectors[:, :3] *= 400 if rows > 1000 else 0
    return unit(vectors)


@functools.cache
def real_embeddings(most):
    """Return what care-mini makes of real documents and queries, or of the demo's without a data folder."""
    model = DualEncoder.from_pretrained("care-mini")
    data = Path(os.environ.get("CARE_DATA", "")) / "retrieval"
    demo = Path(__file__).parents[1] / "care_accel" / "assets" / "care-demo" / "retrieval"
    folders = sorted((data if data.is_dir() else demo).iterdir())
    documents, asked = ([text for f in folders for text in texts_of(f, n)] for n in ("corpus", "queries"))
    # Spread evenly, so that a few of them are of all folders.
    documents, asked = (texts[:: -(-len(texts) // most)] for texts in (documents, asked))
    return model.encode_document(documents), model.encode_query(asked)


def embeddings(count, queries):
    """Return real documents and queries; documents ask too where more are wanted."""
    documents, asked = real_embeddings(count)
    if queries > len(asked):
        asked = np.concatenate([asked, documents])
    return documents, asked[:: len(asked) // queries][:queries]


def texts_of(folder, name):
    from care_accel.files import find_plain_or_gzip, read_lines

    file = next(f for f in map(find_plain_or_gzip, sorted(folder.rglob(f"{name}.jsonl*"))) if f is not None)
    return [json.loads(line)["text"] for _, line in read_lines(file)]


KINDS = {"gaussian": gaussian, "clustered": clustered, "power-law": power_law, "indistinct": indistinct}


def ours(vectors):
    index = ExactIndex(vectors.shape[1])
    index.add(vectors)
    return lambda queries: index.search(queries, k=K)[1]


def ours_with_avx2(vectors):
    if "avx2" not in _native.instruction_sets():
        pytest.skip("this processor has no AVX2")
    index = ExactIndex(vectors.shape[1])
    index.add(vectors)
    codes, threads = index._codes.arguments(), len(os.sched_getaffinity(0))
    return lambda queries: _native.search(
        index.vectors, **codes, queries=queries, k=K, threads=threads, instruction_set="avx2"
    )[1]


def numpy_product(vectors):
    def search(queries):
        scores = queries @ vectors.T
        best = np.argpartition(-scores, K, axis=1)[:, :K]
        order = np.take_along_axis(scores, best, axis=1).argsort(axis=1)[:, ::-1]
        return np.take_along_axis(best, order, axis=1)

    return search


def torch_product(vectors, dtype="float32"):
    import torch

    stored = torch.from_numpy(vectors).to(getattr(torch, dtype))

    def search(queries):
        return torch.topk(torch.from_numpy(queries).to(stored.dtype) @ stored.T, K).indices.numpy()

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


def faiss_float16(vectors):
    faiss = pytest.importorskip("faiss", reason="the peer faiss is not installed (extra bench)")
    index = faiss.IndexScalarQuantizer(
        vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index.train(vectors[:1000])
    index.add(vectors)
    return lambda queries: index.search(queries, K)[1]


def usearch_exact(vectors):
    library = pytest.importorskip("usearch.index", reason="the peer usearch is not installed (extra bench)")
    threads = len(os.sched_getaffinity(0))

    def search(queries):
        found = library.search(vectors, queries, K, library.MetricKind.IP, exact=True, threads=threads)
        return np.atleast_2d(found.keys).astype(np.int64)

    return search


ENGINES = {
    "care_accel": ours,
    "care_accel, AVX2 forced": ours_with_avx2,
    "NumPy": numpy_product,
    "torch float32": torch_product,
    "faiss, as shipped": faiss_flat,
    "faiss, BLAS on": lambda vectors: faiss_flat(vectors, blas_threshold=1),
    "usearch exact": usearch_exact,
    "torch bfloat16 (not exact)": lambda vectors: torch_product(vectors, "bfloat16"),
    "faiss float16 (not exact)": faiss_float16,
}


def pytest_generate_tests(metafunc):
    size = metafunc.config.getoption("--bench-size")
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize(
            "case", CASES[size], ids=lambda c: "x".join(map(str, c)), indirect=True, scope="module"
        )
        metafunc.parametrize("engine", ENGINES)
    else:
        metafunc.parametrize("growth", GROWTH[size], ids=lambda c: "x".join(map(str, c)))


@pytest.fixture(scope="module")
def case(request):
    kind, rows, width, count = request.param
    if kind == "embeddings":
        vectors, queries = embeddings(rows, count)
    else:
        vectors, queries = (
            KINDS[kind](np.random.default_rng(seed), n, width) for seed, n in enumerate((rows, count))
        )
    return kind, np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(queries, np.float32)


def test_search(benchmark, engine, case, read_bandwidth, int8_rate):
    kind, vectors, queries = case
    search = ENGINES[engine](vectors)
    rows, width = vectors.shape
    benchmark.group = f"top {K} of {rows:,} x {width}, {kind}, {len(queries)} queries at a time"
    benchmark.extra_info |= {"name": engine, "ours": engine == "care_accel"}
    if engine.startswith("care_accel"):
        benchmark.extra_info |= {
            "share_of_limit_bytes": rows * width / read_bandwidth,
            "share_of_limit_products": rows * width * len(queries) / int8_rate,
        }
    found = benchmark(search, queries)
    expected = np.argmax(queries.astype(np.float64) @ vectors.T.astype(np.float64), axis=1)
    if "not exact" not in engine:
        # float32 peers may swap two that are nearly equal; real texts are there twice.
        assert (found[:, 0] == expected).mean() > (0.5 if kind == "embeddings" else 0.98)


def test_growth(benchmark, growth, read_bandwidth):
    rows, width, k, threads = growth
    vectors = gaussian(np.random.default_rng(0), rows, width)
    index = ExactIndex(width, threads=threads)
    index.add(vectors)
    query = gaussian(np.random.default_rng(1), 1, width)
    benchmark.group = "care_accel, one query: vectors x width, k, threads"
    benchmark.extra_info |= {
        "name": f"{rows:,} x {width}, k {k}, threads {threads}",
        "share_of_limit_bytes": rows * width / read_bandwidth,
    }
    _, ids = benchmark(index.search, query, k=k)
    assert len(set(ids[0])) == k
