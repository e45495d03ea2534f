"""Exact top-k search against its peers.

Exact peers, in float32: faiss IndexFlatIP as it ships, and with its matrix product on for any batch (it ships with a
threshold that keeps it off for small ones); NumPy's and torch's product and selection; usearch. For information,
since they are not exact: torch in bfloat16, faiss in float16. The limits: one read of all codes (ours; int4 codes for one
query over a large index) or of all vectors at the read bandwidth, and all products at the int8 (ours) or float32 rate of the
fastest matrix product. The index is larger than the caches; queries rotate.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from care_accel import DualEncoder, ExactIndex, _native
from care_accel.index.codes import INT4_MIN_BYTES

# kind, vectors, width, queries at a time
CASES = {
    "smoke": [("gaussian", 2_000, 192, 1), ("embeddings", 40, 0, 8)],
    "default": [
        *(("gaussian", 100_000, 768, queries) for queries in (1, 8, 32, 128)),
        *(("embeddings", 50_000, 0, queries) for queries in (1, 32)),
    ],
    "full": [
        *(
            (kind, 200_000, 768, queries)
            for kind in ("gaussian", "clustered", "power-law", "indistinct")
            for queries in (1, 8, 32, 128)
        ),
        *(("embeddings", 50_000, 0, queries) for queries in (1, 8, 32, 128)),
    ],
}
BATCHES = 16  # of queries, in rotation
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
    """A few values vary four hundred times as much as the rest, but the rest decides: pruning by codes fails."""
    vectors = rng.standard_normal((rows, width), dtype=np.float32)
    vectors[:, :3] *= 400 if rows > 1000 else 0
    return unit(vectors)


@functools.cache
def real_embeddings(most):
    """Return what care-mini makes of real documents and queries, or of the demo's without a data folder."""
    model = DualEncoder.from_pretrained("care-mini")
    data = Path(os.environ.get("CARE_DATA", "")) / "retrieval"
    demo = Path(__file__).parents[2] / "care_accel" / "assets" / "care-demo" / "retrieval"
    folders = sorted((data if data.is_dir() else demo).iterdir())
    documents, asked = ([text for f in folders for text in texts_of(f, n)] for n in ("corpus", "queries"))
    # Spread evenly, so that a few of them are of all folders.
    documents, asked = (texts[:: -(-len(texts) // most)] for texts in (documents, asked))
    return model.encode_document(documents), model.encode_query(asked)


def embeddings(count, queries):
    """Return real documents and queries; documents ask too where more are wanted."""
    documents, asked = real_embeddings(count)
    while queries > len(asked):
        asked = np.concatenate([asked, documents])
    return documents, asked[:: len(asked) // queries][:queries]


def texts_of(folder, name):
    from care_accel.files import find_plain_or_gzip, read_lines

    file = next(f for f in map(find_plain_or_gzip, sorted(folder.rglob(f"{name}.jsonl*"))) if f is not None)
    return [json.loads(line)["text"] for _, line in read_lines(file)]


KINDS = {"gaussian": gaussian, "clustered": clustered, "power-law": power_law, "indistinct": indistinct}


def index_of(vectors):
    index = ExactIndex(vectors.shape[1])
    index.add(vectors)
    return index


def index_bytes(index):
    """Return the bytes of an index's vectors, int8 and int4 codes, without spare capacity."""
    codes = index._parts[0].codes
    int4 = codes.int4
    coded = codes.blocks * codes.bytes.shape[1] + len(index) * 4 * len(codes.norms)
    if int4:
        coded += codes.blocks * int4.bytes.shape[1]
        coded += len(index) * (int4.residuals.shape[1] + 4 * len(int4.norms))
    return index.vectors.nbytes + coded


def scanned_bytes(rows, width, queries):
    """Return the bytes that a search reads at least: int4 codes for one query over a large index, otherwise int8 codes."""
    return rows * width // (2 if queries == 1 and rows * width >= INT4_MIN_BYTES else 1)


def ours(vectors):
    index = index_of(vectors)
    return lambda queries: index.search(queries, k=K)[1]


def ours_with_avx2(vectors):
    if "avx2" not in _native.instruction_sets():
        pytest.skip("this processor has no AVX2")
    index = index_of(vectors)
    codes, threads = index._parts[0].codes.search_arguments(), len(os.sched_getaffinity(0))
    return lambda queries: _native.search(
        index.vectors, **codes, queries=queries, k=K, threads=threads, instruction_set="avx2"
    )[1]


def numpy_product(vectors):
    def search(queries):
        scores = queries @ vectors.T
        best = np.argpartition(scores, -K, axis=1)[:, -K:]
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


OURS = "care_accel"
ENGINES = {
    OURS: ours,
    "care_accel, AVX2 forced": ours_with_avx2,
    "NumPy": numpy_product,
    "torch float32": torch_product,
    "faiss, as shipped": faiss_flat,
    "faiss, BLAS on": lambda vectors: faiss_flat(vectors, blas_threshold=1),
    "usearch exact": usearch_exact,
    "torch bfloat16": lambda vectors: torch_product(vectors, "bfloat16"),
    "faiss float16": faiss_float16,
}
NOT_EXACT = {"torch bfloat16", "faiss float16"}


def pytest_generate_tests(metafunc):
    cases = CASES[metafunc.config.getoption("--bench-size")]
    metafunc.parametrize("case", cases, ids=lambda c: "x".join(map(str, c)), indirect=True, scope="module")
    metafunc.parametrize("engine", ENGINES)


@pytest.fixture(scope="module")
def case(request):
    kind, rows, width, count = request.param
    if kind == "embeddings":
        vectors, queries = embeddings(rows, BATCHES * count)
    else:
        vectors, queries = (
            KINDS[kind](np.random.default_rng(seed), n, width)
            for seed, n in enumerate((rows, BATCHES * count))
        )
    queries = np.ascontiguousarray(queries, np.float32).reshape(BATCHES, count, -1)
    return kind, np.ascontiguousarray(vectors, np.float32), list(queries)


def test_search(measure, cached, engine, case):
    kind, vectors, batches = case
    (rows, width), count = vectors.shape, len(batches[0])
    search = cached((kind, rows, width), engine, lambda: ENGINES[engine](vectors))
    if engine.startswith("care_accel"):
        read = scanned_bytes(rows, width, count)
    else:
        read = (2 if engine in NOT_EXACT else 4) * rows * width
    limit = {"read bandwidth": read}
    if engine.startswith("care_accel"):
        limit["int8 rate"] = rows * width * count
    elif engine not in NOT_EXACT:
        limit["float32 rate"] = 2 * rows * width * count
    measure(
        search,
        [(queries,) for queries in batches],
        group=f"top {K} of {rows:,} x {width}, {kind}, {count} {'query' if count == 1 else 'queries'} at a time",
        name=engine,
        ours=engine == OURS,
        parameters={"kind": kind, "vectors": rows, "width": width, "queries": count, "k": K},
        limit=limit,
        touched=read,
        exact=engine not in NOT_EXACT,
    )
    if engine not in NOT_EXACT:
        found = np.concatenate([search(queries)[:, 0] for queries in batches[:2]])
        expected = np.argmax(
            np.concatenate(batches[:2]).astype(np.float64) @ vectors.T.astype(np.float64), axis=1
        )
        # float32 peers may swap two that are nearly equal; real texts are there twice.
        assert (found == expected).mean() >= (0.5 if kind == "embeddings" else 0.98)
