"""Exact search, approximate search that chose itself, and peers tuned to a recall by hand: which is fastest, from which size on?

A setting of a peer is the smallest that reaches the recall on queries that tune; recall is stated as measured on others. An id counts as
found if its product is as large as the k-th best: real texts are there twice. One query at a time; of the configurations of a peer
(`peers`) the fastest. `ApproximateIndex` is asked for the recall and given the queries that tune, nothing else. As it proves
its recall, it finds more than was asked; so the best of faiss is also tuned to the recall that it has on the queries that are measured.

The full size takes hours; a case, a recall or a peer alone, on one thread:

    taskset -c 0 pytest bench/approximate/test_approximate.py --benchmark-only --bench-size full --embeddings FOLDER --bench-blocks 2 \\
        --approximate-case embeddings,300000,256 --approximate-recall 0.95 --approximate-peer "faiss IVF"

``python -m bench.approximate.case_by_case`` runs many cases, one after the other, each with its results.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from bench.approximate.peers import FAISS, PEERS, TooSlow
from bench.approximate.tuning import THREADS, Built, tuned
from bench.scan.test_scan import KINDS, K, index_bytes, index_of, real_embeddings, unit
from care_accel import ApproximateIndex
from care_accel.index.approximate.building.questions import sampled

# kind, vectors, width; "embeddings" are care-mini's of real texts, cut to the width, and beyond these documents that are each moved by half
# the difference of two others.
CASES = {
    "smoke": [("clustered", 2_000, 32)],
    "default": [
        *(("embeddings", count, 256) for count in (3_000, 10_000, 50_000)),
        *(("clustered", count, 256) for count in (3_000, 10_000, 30_000, 100_000)),
    ],
    "full": [
        *(("embeddings", count, 256) for count in (10_000, 30_000, 100_000, 300_000, 1_000_000)),
        *(
            (kind, count, 256)
            for kind in ("clustered", "power-law")
            for count in (100_000, 300_000, 1_000_000)
        ),
        *((kind, count, 768) for kind in ("clustered", "power-law") for count in (100_000, 300_000)),
    ],
}
RECALLS = {"smoke": (0.99,), "default": (0.99, 0.999), "full": (0.95, 0.99, 0.999)}
# Queries that choose, and queries that are measured. Of the first, some tune peers; 0.999 is not proven by fewer.
CHOOSING = {"smoke": 900, "default": 9_000, "full": 9_000}
TUNING, MEASURED = 400, 500
# Seconds. An index that takes longer to build is left out: building a graph is slow on few cores.
MAX_BUILD_SECONDS = {"smoke": 10.0, "default": 60.0, "full": 600.0}
BUDGET = {"smoke": "5 s", "default": "60 s", "full": "5 min"}
OURS = "care_accel"
CHOSEN = "care_accel, chosen for recall"
SAME = "best of faiss by hand, with the recall of ours for"


def engines(peers, recalls):
    """Return what is measured by name: a peer, if any, and a recall; ours first, as a peer is tuned to its recall."""
    found = {OURS: (None, None)} | {f"{CHOSEN} {recall:g}": (CHOSEN, recall) for recall in recalls}

    def tuned_to_recalls(some):
        return {f"{peer}, recall {recall:g}": (peer, recall) for recall in recalls for peer in some}

    found |= tuned_to_recalls([peer for peer in peers if peer in FAISS])
    found |= {f"{SAME} {recall:g}": (SAME, recall) for recall in recalls}
    # Those that take long to build come last: what was measured before an interruption is recorded.
    return found | tuned_to_recalls([peer for peer in peers if peer not in FAISS])


def pytest_generate_tests(metafunc):
    option = metafunc.config.getoption
    size = option("--bench-size")
    cases = [(k, int(n), int(w)) for k, n, w in (c.split(",") for c in option("--approximate-case") or ())]
    recalls = [float(recall) for recall in option("--approximate-recall") or RECALLS[size]]
    starts = tuple(option("--approximate-peer") or ("",))
    peers = [peer for peer in PEERS if peer.startswith(starts)]
    metafunc.parametrize(
        "case", cases or CASES[size], ids=lambda c: "x".join(map(str, c)), indirect=True, scope="module"
    )
    metafunc.parametrize("engine", engines(peers, recalls).items(), ids=lambda one: one[0])


@dataclass
class Case:
    """Vectors, and queries that tune and that are measured, each with the least product of its k best."""

    kind: str
    vectors: Any
    tune: Any
    asked: Any
    choosing: Any = None

    def __post_init__(self) -> None:
        self.least = {id(some): self._least(some) for some in (self.tune, self.asked)}
        self._quantizers: dict[int, tuple[Any, float]] = {}
        self._flat: Any = None

    def quantizer(self, lists: int) -> tuple[Any, float]:
        """Return a trained quantizer of so many lists, made once for all inverted files, and the seconds that it took."""
        import faiss

        if lists not in self._quantizers:
            begun, width = perf_counter(), self.vectors.shape[1]
            quantizer = faiss.IndexFlatIP(width)
            index = faiss.IndexIVFFlat(quantizer, width, lists, faiss.METRIC_INNER_PRODUCT)
            index.cp.max_points_per_centroid = 64
            index.train(self.vectors)
            self._quantizers[lists] = quantizer, perf_counter() - begun
        return self._quantizers[lists]

    def refined(self, index: Any) -> Any:
        """Return an index of codes whose candidates are scored from the vectors, which all such indexes share."""
        import faiss

        if self._flat is None:
            self._flat = faiss.IndexFlatIP(self.vectors.shape[1])
            self._flat.add(self.vectors)
        return faiss.IndexRefine(index, self._flat)

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
def embeddings(request):
    """Return the real documents and queries, in an order of their own."""
    folder: Path | None = request.config.getoption("--embeddings")

    def read():
        if folder is None:
            return real_embeddings(50_000)  # of all sizes and suites, made once
        return [np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("documents", "queries")]

    return read


@pytest.fixture(scope="module")
def case(request, bench_size, embeddings):
    kind, count, width = request.param
    wanted = CHOOSING[bench_size] + MEASURED
    if kind == "embeddings":
        documents, queries = (
            np.random.default_rng(seed).permutation(some) for seed, some in enumerate(embeddings())
        )
        if width > documents.shape[1]:
            pytest.skip(f"the embeddings have {documents.shape[1]} values")
        documents, queries = (unit(some[:, :width]) for some in (documents, queries))
        vectors, queries = enlarged(documents, count), queries[:wanted]
    else:
        vectors, queries = (
            KINDS[kind](np.random.default_rng(seed), some, width) for seed, some in enumerate((count, wanted))
        )
    queries = np.ascontiguousarray(queries, np.float32)
    # Of few queries half choose.
    asked = queries[: min(MEASURED, len(queries) // 2)]
    choosing = queries[len(asked) :]
    return Case(kind, np.ascontiguousarray(vectors, np.float32), choosing[:TUNING], asked, choosing)


def enlarged(documents, count):
    """Return so many vectors: the documents, and documents that are moved where there are not enough."""
    more = count - len(documents)
    if more <= 0:
        return documents[:count]
    # In steps, which take less memory.
    rng = np.random.default_rng(2)
    steps = [sampled(documents, min(50_000, more - first), rng) for first in range(0, more, 50_000)]
    return np.concatenate([documents, *steps])


def build(peer, case, within):
    """Return what a peer searches, or why there is nothing."""
    try:
        return PEERS[peer](case, within)
    except TooSlow as reason:
        return str(reason)


def stored_bytes(index: Any) -> int:
    """Return the bytes of an index as faiss writes it: what it holds of vectors, codes and links."""
    if isinstance(getattr(index, "bytes", None), int):
        return index.bytes  # type: ignore[no-any-return]
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
    name, (peer, recall) = engine
    about = {
        "group": f"top {K} of {rows:,} x {width}, {case.kind}, beside approximate search",
        "name": name,
        "ours": name == OURS,
    }
    parameters = {"kind": case.kind, "vectors": rows, "width": width, "queries": 1, "k": K}
    asked = case.asked
    one_each = [(asked[i : i + 1],) for i in range(len(asked))]
    not_reached = cached(key, "not reached", dict)

    def exact():
        index = index_of(case.vectors)
        case.vectors = index.vectors  # the same, once
        return index

    index = cached(key, OURS, exact)
    if name == OURS:
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
    parameters |= {"recall_wanted": recall}
    pytest.importorskip("faiss", reason="the peer faiss is not installed (extra bench)")
    if peer == CHOSEN:
        chosen = cached(key, name, lambda: choose(index, case, recall, bench_size))
        choice = chosen.choice
        found = case.recall(asked, np.concatenate([chosen.search(one, k=K)[1] for (one,) in one_each]))
        cached(key, f"recall for {recall}", lambda: found)
        beside = next((one.bytes for one in choice.tried if one.name == choice.name and one.p50_us), 0)
        setting = (
            "exact scan"
            if choice.is_exact
            else f"{choice.name}, {choice.value}, {choice.candidates} rescored"
        )
        measure(
            lambda query: chosen.search(query, k=K), one_each, **about, parameters=parameters,
            exact=choice.is_exact, recall=found, bytes=index_bytes(index) + beside, touched=index_bytes(index),
            build_s=choice.seconds, note=f"{setting}; {choice.queries}; built in {choice.seconds:.1f} s",
        )  # fmt: skip
        return
    within = MAX_BUILD_SECONDS[bench_size]
    if peer == SAME:
        wanted = cached(key, f"recall for {recall}", lambda: recall)
        if wanted == 1:
            pytest.skip("ours found everything, as an exact scan does")
        builts = [
            built for one in FAISS if not isinstance(built := cached(key, one, lambda: None), str) and built
        ]
        best = cached(
            key,
            name,
            lambda: tuned(case, Built([c for b in builts for c in b.candidates], recalls={}), wanted, asked),
        )
    else:
        built = cached(key, peer, lambda: build(peer, case, within))
        if isinstance(built, str):
            not_reached[peer] = f"{peer}: {built}"
            pytest.skip(not_reached[peer])
        best = cached(key, name, lambda: tuned(case, built, recall))
    if best is None:
        not_reached[name] = f"{peer} does not reach recall {recall:g}"
        pytest.skip(not_reached[name])
    candidate, value = best
    found = case.recall(asked, candidate.search_all(asked, value))
    candidate.use(value)
    assert found > (wanted - 1e-9 if peer == SAME else recall - 0.02)  # it was reached on other queries
    stored = cached(key, f"bytes of {name}", lambda: stored_bytes(candidate.index))
    measure(
        lambda query: candidate.index.search(query, K), one_each, **about, parameters=parameters,
        exact=False, recall=found, bytes=stored, touched=stored, build_s=candidate.build_seconds,
        note=f"{candidate.setting} {value:,} {candidate.description}",
    )  # fmt: skip


def choose(index, case, recall, size):
    """Return an index that was asked for a recall, and given queries, as many as a user needs for it and more."""
    queries = case.choosing[: 9_000 if recall > 0.99 else 3_000]
    chosen = ApproximateIndex.build(
        index, recall, K, queries=queries, budget=BUDGET[size], threads=index.threads
    )
    print(chosen.choice.text(), file=sys.stderr, flush=True)
    return chosen
