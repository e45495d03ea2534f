"""Exact search against approximate indexes of faiss, each tuned to a recall: where does exact search lose?

A setting is the smallest that reaches the recall on queries of its own; recall is stated as measured on others. An id
counts as found if its product is as large as the k-th best: real texts are there twice. One query at a time; of the
numbers of lists, and of the ways to use threads, the fastest.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from test_scan import K, clustered, index_bytes, index_of, real_embeddings
from tuning import THREADS, Built, TunableIndex, tuned

# kind, vectors, width; of "embeddings" as many as there are, at most, in care-mini's width.
CASES = {
    "smoke": [("clustered", 2_000, 32)],
    "default": [
        *(("embeddings", count, 256) for count in (3_000, 10_000, 50_000)),
        *(("clustered", count, 256) for count in (3_000, 10_000, 30_000, 100_000)),
    ],
    "full": [
        *(("embeddings", count, 256) for count in (1_000, 3_000, 10_000, 20_000, 50_000)),
        *(("clustered", count, 256) for count in (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)),
        ("clustered", 100_000, 768),
    ],
}
RECALLS = (0.99, 0.999)
QUERIES = {"smoke": 100, "default": 1000, "full": 1000}  # half of them tune
# Seconds. An index that takes longer to build is left out: building a graph is slow on few cores.
MAX_BUILD_SECONDS = {"smoke": 10.0, "default": 60.0, "full": 900.0}
OURS = "care_accel"
CONSTRUCTION = 200
# Numbers of lists of an inverted file that are tried, over the root of the number of vectors.
LISTS = (1, 2, 4)


class TooSlow(Exception):
    """Building an index takes longer than it may."""


def hnsw(case, within):
    import faiss

    vectors = case.vectors
    begun = perf_counter()
    index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = CONSTRUCTION
    for part in np.array_split(vectors, 20):
        index.add(part)
        if perf_counter() - begun > within:
            raise TooSlow(f"building a graph of {len(vectors):,} takes longer than {within:g} s")
    return Built([TunableIndex(index, "efSearch", len(vectors), description=_built(begun))])


def _built(begun, before=0.0):
    return f"built in {before + perf_counter() - begun:.1f} s"


def ivf(case, within, *, codes=False):
    """Return inverted files of several numbers of lists: which is best depends on vectors and recall."""
    count = len(case.vectors)
    most = max(1, count // 39)  # faiss asks for 39 points a list
    built = [
        _of_lists(case, lists, codes) for lists in sorted({min(round(n * count**0.5), most) for n in LISTS})
    ]
    return Built(
        [candidate for one in built for candidate in one.candidates], keep=[one.keep for one in built]
    )


def _of_lists(case, lists, codes):
    import faiss

    vectors, width = case.vectors, case.vectors.shape[1]
    quantizer, seconds = case.quantizer(lists)
    begun = perf_counter()
    kind = (quantizer, width, lists)
    if codes:
        index = faiss.IndexIVFScalarQuantizer(
            *kind, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
    else:
        index = faiss.IndexIVFFlat(*kind, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    outer = refined(index, vectors) if codes else index
    built = _built(begun, seconds)

    def candidate(parallel, factor):
        def prepare():
            index.parallel_mode = parallel
            if codes:
                outer.k_factor = factor

        threads = THREADS if parallel else 1
        words = [f"of {lists:,}", *([f"k_factor {factor}"] if codes else []), f"threads {threads}", built]
        return TunableIndex(outer, "nprobe", lists, threads, prepare, ", ".join(words), (lists, factor))

    factors = (1, 2, 4) if codes else (1,)
    return Built([candidate(parallel, factor) for parallel in (0, 1) for factor in factors], keep=[index])


def sq8(case, within):
    """Return codes read whole: by one thread, as a single query is, and in shards that have a thread each."""
    import faiss

    vectors, begun = case.vectors, perf_counter()

    def codes():
        found = faiss.IndexScalarQuantizer(
            vectors.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        found.train(vectors)
        return found

    whole = codes()
    whole.add(vectors)
    shards = faiss.IndexShards(vectors.shape[1], True, True)
    parts = [codes() for _ in range(THREADS)]
    for part in parts:
        shards.add_shard(part)
    shards.add(vectors)
    most, built = len(vectors) // K, _built(begun)
    candidates = [
        TunableIndex(refined(whole, vectors), "k_factor_rf", most, description=built),
        TunableIndex(
            refined(shards, vectors), "k_factor_rf", most, description=f"in {len(parts)} shards, {built}"
        ),
    ]
    return Built(candidates, keep=[whole, shards, parts])


def refined(index, vectors):
    import faiss

    found = faiss.IndexRefineFlat(index, faiss.swig_ptr(vectors))
    found.metric_type = index.metric_type
    return found


PEERS = {
    "faiss HNSW": hnsw,
    "faiss IVFFlat": ivf,
    "faiss SQ8, refined": sq8,
    "faiss IVF SQ8, refined": lambda case, within: ivf(case, within, codes=True),
}
ENGINES = {OURS: None} | {
    f"{peer}, recall {recall:g}": (peer, recall) for recall in RECALLS for peer in PEERS
}


def pytest_generate_tests(metafunc):
    cases = CASES[metafunc.config.getoption("--bench-size")]
    metafunc.parametrize("case", cases, ids=lambda c: "x".join(map(str, c)), indirect=True, scope="module")
    metafunc.parametrize("engine", ENGINES)


@dataclass
class Case:
    """Vectors, and queries that tune and that are measured, each with the least product of its k best."""

    kind: str
    vectors: Any
    tune: Any
    asked: Any

    def __post_init__(self) -> None:
        self.least = {id(some): self._least(some) for some in (self.tune, self.asked)}
        self._quantizers: dict[int, tuple[Any, float]] = {}

    def quantizer(self, lists: int) -> tuple[Any, float]:
        """Return a trained quantizer of so many lists, made once for all inverted files, and the seconds that it took."""
        import faiss

        if lists not in self._quantizers:
            begun, width = perf_counter(), self.vectors.shape[1]
            quantizer = faiss.IndexFlatIP(width)
            faiss.IndexIVFFlat(quantizer, width, lists, faiss.METRIC_INNER_PRODUCT).train(self.vectors)
            self._quantizers[lists] = quantizer, perf_counter() - begun
        return self._quantizers[lists]

    def _least(self, queries: Any) -> Any:
        found = [
            np.partition(part @ self.vectors.T, -K, axis=1)[:, -K]
            for part in np.array_split(queries, -(-len(queries) * len(self.vectors) // 10**8))
        ]
        return np.concatenate(found)

    def recall(self, queries: Any, ids: Any) -> float:
        """Return the share of the k best that was found."""
        products = np.einsum("qkd,qd->qk", self.vectors[ids], queries)
        found = (products >= self.least[id(queries)][:, None] - 2e-6) & (ids >= 0)
        return float(found.mean())


@pytest.fixture(scope="module")
def case(request, bench_size):
    kind, count, width = request.param
    asked = QUERIES[bench_size]
    if kind == "embeddings":
        documents, queries = real_embeddings(50_000)  # of all sizes and suites, made once
        order = np.random.default_rng(0).permutation(len(documents))[:count]
        vectors, queries = documents[order], np.random.default_rng(1).permutation(queries)[:asked]
    else:
        vectors, queries = (
            clustered(np.random.default_rng(seed), some, width) for seed, some in enumerate((count, asked))
        )
    tune, asked = (np.ascontiguousarray(queries[i::2], np.float32) for i in range(2))
    return Case(kind, np.ascontiguousarray(vectors, np.float32), tune, asked)


def build(peer, case, within):
    """Return what a peer searches, or why there is nothing."""
    try:
        return PEERS[peer](case, within)
    except TooSlow as reason:
        return str(reason)


def stored_bytes(index: Any) -> int:
    """Return the bytes of an index as faiss writes it: what it holds of vectors, codes and links."""
    import faiss

    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        return stored_bytes(index.base_index) + stored_bytes(index.refine_index)
    if isinstance(index, faiss.IndexShards):  # cannot be written as one
        return sum(stored_bytes(index.at(i)) for i in range(index.count()))
    counted = 0

    def count(data: bytes) -> None:
        nonlocal counted
        counted += len(data)

    faiss.write_index(index, faiss.PyCallbackIOWriter(count))
    return counted


@pytest.fixture
def all_threads():
    """Leave faiss with all threads, as it is shipped."""
    yield
    if "faiss" in sys.modules:
        sys.modules["faiss"].omp_set_num_threads(THREADS)


@pytest.mark.usefixtures("all_threads")
def test_approximate(measure, cached, bench_size, engine, case):
    rows, width = case.vectors.shape
    key = case.kind, rows, width
    about = {
        "group": f"top {K} of {rows:,} x {width}, {case.kind}, beside approximate search",
        "name": engine,
        "ours": engine == OURS,
    }
    parameters = {"kind": case.kind, "vectors": rows, "width": width, "queries": 1, "k": K}
    asked = case.asked
    one_each = [(asked[i : i + 1],) for i in range(len(asked))]
    not_reached = cached(key, "not reached", dict)
    if engine == OURS:
        index = cached(key, engine, lambda: index_of(case.vectors))
        codes = rows * width
        found = case.recall(asked, index.search(asked, k=K)[1])
        assert found == 1
        measure(
            lambda query: index.search(query, k=K), one_each, **about, parameters=parameters, exact=True,
            recall=found, bytes=index_bytes(index),
            limit={"read bandwidth": codes, "int8 rate": codes}, touched=codes,
            note="; ".join(not_reached.values()),
        )  # fmt: skip
        return
    pytest.importorskip("faiss", reason="the peer faiss is not installed (extra bench)")
    peer, recall = ENGINES[engine]
    built = cached(key, peer, lambda: build(peer, case, MAX_BUILD_SECONDS[bench_size]))
    if isinstance(built, str):
        not_reached[peer] = f"{peer}: {built}"
        pytest.skip(not_reached[peer])
    choice = cached(key, engine, lambda: tuned(case, built, recall))
    if choice is None:
        not_reached[engine] = f"{peer} does not reach recall {recall:g}"
        pytest.skip(not_reached[engine])
    candidate, value = choice
    found = case.recall(asked, candidate.search_all(asked, value))
    candidate.use(value)
    assert found > recall - 0.02  # it was reached on other queries
    stored = cached(key, f"bytes of {engine}", lambda: stored_bytes(candidate.index))
    measure(
        lambda query: candidate.index.search(query, K), one_each, **about,
        parameters=parameters | {"recall_wanted": recall}, exact=False, recall=found, bytes=stored, touched=stored,
        note=f"{candidate.setting} {value:,} {candidate.description}",
    )  # fmt: skip
