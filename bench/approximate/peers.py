"""Peers of approximate search, each built as its own documentation advises and tuned by its own setting.

faiss by hand follows its wiki ("Guidelines to choose an index", "Fast accumulation of PQ and AQ codes"): below a million vectors
``HNSW32``, or ``IVF`` with 2 to 8 times the root of n lists and 4-bit codes read by fast-scan, or int8 codes, each refined from the
vectors. The grid is `FAISS`, with the factors of `FACTORS`; a value of ``efSearch`` or ``nprobe`` is then tuned by bisection.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from bench.approximate.tuning import THREADS, Built, TunableIndex
from bench.scan.test_scan import K

LINKS, CONSTRUCTION = 32, 200
# Numbers of lists of an inverted file that are tried, over the root of the number of vectors.
LISTS = (2, 4, 8)
# From so many vectors on only what the wiki names first is tried: to find centres takes minutes on few cores.
MANY, LISTS_OF_MANY = 500_000, (4,)
# How many times K candidates are refined.
FACTORS = {"Flat": (1,), "SQ8": (1, 2, 4), "PQ": (4, 8, 16, 32)}
# Vectors a list that its centre is trained by: the wiki asks for 30 to 256.
_TRAINED_PER_LIST = 64


class TooSlow(Exception):
    """Building an index takes longer than it may."""


@dataclass
class Library:
    """A peer that is not faiss, with the calls of `TunableIndex.index` that tuning uses."""

    one: Any
    bytes: int

    def search(self, queries: Any, k: int) -> tuple[None, Any]:
        """Return ids, ``[n, k]``; -1 for none."""
        return None, self.one(queries, k)


class Settable(TunableIndex):
    """A peer whose setting is set by a function."""

    set: Any = None

    def use(self, value: int) -> None:
        """Set the value for the searches that follow."""
        self.set(value)

    def search_all(self, queries: Any, value: int) -> Any:
        """Return the ids for many queries at a value."""
        self.use(value)
        return self.index.search(queries, K)[1]


def settable(index, setting, most, change, begun, description=""):
    seconds = perf_counter() - begun
    found = Settable(index, setting, most, description=f"{description}built in {seconds:.1f} s")
    found.set = change
    found.build_seconds = seconds
    return Built([found], keep=[index])


def _parts(count):
    """Yield how many vectors there are with each part of them, the first one small, and the part."""
    ends = [0, *sorted({min(count, 4096), *np.linspace(0, count, 21).astype(int)[1:].tolist()})]
    yield from ((end, slice(first, end)) for first, end in pairwise(ends))


def _in_time(begun, done, count, within):
    """Refuse a graph that would take too long, if each vector takes as long as those before, and the logarithm more."""
    expected = (perf_counter() - begun) * count / done * np.log(count) / np.log(done)
    if expected > within:
        raise TooSlow(f"a graph of {count:,} would take some {expected:.0f} s to build, more than {within:g}")


def hnsw(case, within):
    import faiss

    vectors = case.vectors
    begun = perf_counter()
    index = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = CONSTRUCTION
    for done, part in _parts(len(vectors)):
        index.add(vectors[part])
        _in_time(begun, done, len(vectors), within)
    return Built([_made(index, "efSearch", len(vectors), begun, key="HNSW")])


def _made(index, setting, most, begun, before=0.0, threads=1, prepare=lambda: None, words=(), key=None):
    seconds = before + perf_counter() - begun
    about = ", ".join([*words, f"built in {seconds:.1f} s"])
    found = TunableIndex(index, setting, most, threads, prepare, about, key)
    found.build_seconds = seconds
    return found


def ivf(case, within, *, codes="Flat"):
    """Return inverted files of several numbers of lists: which is best depends on vectors and recall."""
    count = len(case.vectors)
    most = max(1, count // 39)  # faiss asks for 39 points a list
    built = [_of_lists(case, lists, codes) for lists in lists_of(count, most)]
    return Built(
        [candidate for one in built for candidate in one.candidates], keep=[one.keep for one in built]
    )


def lists_of(count, most):
    times = LISTS if count < MANY else LISTS_OF_MANY
    return sorted({min(round(n * count**0.5), most) for n in times})


def _of_lists(case, lists, codes):
    import faiss

    vectors, width = case.vectors, case.vectors.shape[1]
    quantizer, before = case.quantizer(lists)
    begun = perf_counter()
    kind = (quantizer, width, lists)
    if codes == "PQ":
        index = faiss.IndexIVFPQFastScan(*kind, width // 2, 4, faiss.METRIC_INNER_PRODUCT)
        index.by_residual = True  # "x4fsr": more precise, and not slower for inner products
    elif codes == "SQ8":
        index = faiss.IndexIVFScalarQuantizer(
            *kind, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
    else:
        index = faiss.IndexIVFFlat(*kind, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = _TRAINED_PER_LIST
    index.train(vectors)
    index.add(vectors)
    outer = index if codes == "Flat" else case.refined(index)

    def candidate(parallel, factor):
        def prepare():
            if codes != "PQ":
                index.parallel_mode = parallel
            if codes != "Flat":
                outer.k_factor = factor

        threads = THREADS if parallel else 1
        words = [
            f"of {lists:,}",
            *([f"k_factor {factor}"] if codes != "Flat" else []),
            f"threads {threads}",
        ]
        return _made(outer, "nprobe", lists, begun, before, threads, prepare, words, (codes, lists, factor))

    ways = (0, 1) if THREADS > 1 and codes != "PQ" else (0,)
    return Built(
        [candidate(parallel, factor) for parallel in ways for factor in FACTORS[codes]], keep=[index, outer]
    )


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
    most = len(vectors) // K
    candidates = [_made(case.refined(whole), "k_factor_rf", most, begun, key="SQ8")]
    keep = [whole, candidates[0].index]
    if THREADS > 1:
        shards = faiss.IndexShards(vectors.shape[1], True, True)
        parts = [codes() for _ in range(THREADS)]
        for part in parts:
            shards.add_shard(part)
        shards.add(vectors)
        outer = case.refined(shards)
        candidates.append(
            _made(outer, "k_factor_rf", most, begun, words=[f"in {len(parts)} shards"], key="SQ8")
        )
        keep += [shards, parts, outer]
    return Built(candidates, keep=keep)


def hnswlib(case, within):
    library = pytest.importorskip("hnswlib", reason="the peer hnswlib is not installed")
    vectors, begun = case.vectors, perf_counter()
    index = library.Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), ef_construction=CONSTRUCTION, M=LINKS)
    for done, part in _parts(len(vectors)):
        index.add_items(vectors[part], np.arange(len(vectors))[part], num_threads=THREADS)
        _in_time(begun, done, len(vectors), within)
    return settable(
        Library(lambda queries, k: index.knn_query(queries, k, num_threads=1)[0].astype(np.int64), index.index_file_size()),
        "ef", len(vectors), index.set_ef, begun, f"M {LINKS}, ",
    )  # fmt: skip


def usearch(case, within):
    library = pytest.importorskip("usearch.index", reason="the peer usearch is not installed")
    vectors, begun = case.vectors, perf_counter()
    index = library.Index(
        ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=LINKS, expansion_add=CONSTRUCTION
    )
    for done, part in _parts(len(vectors)):
        index.add(np.arange(len(vectors), dtype=np.uint64)[part], vectors[part], threads=THREADS)
        _in_time(begun, done, len(vectors), within)

    def search(queries, k):
        found = index.search(queries, k, threads=1).keys
        return np.atleast_2d(np.asarray(found)).astype(np.int64)

    def change(value):
        index.expansion_search = value

    return settable(
        Library(search, index.serialized_length),
        "expansion_search",
        len(vectors),
        change,
        begun,
        f"connectivity {LINKS}, ",
    )


def scann(case, within):
    library = pytest.importorskip("scann", reason="the peer ScaNN is not installed").scann_ops_pybind
    vectors, begun = case.vectors, perf_counter()
    count = len(vectors)
    # As its documentation advises: some root of n leaves, anisotropic quantisation of two values, reordering.
    leaves = round(2 * count**0.5)
    searcher = (
        library.builder(vectors, K, "dot_product")
        .set_n_training_threads(THREADS)
        .tree(leaves, max(1, leaves // 20), training_sample_size=min(count, 64 * leaves))
        .score_ah(2, anisotropic_quantization_threshold=0.2)
        .reorder(100)
        .build()
    )
    seconds = perf_counter() - begun
    candidates = []
    for reordered in (30, 100, 300):
        state = {"leaves": 1}

        def search(queries, k, state=state, reordered=reordered):
            options = {"leaves_to_search": state["leaves"], "pre_reorder_num_neighbors": reordered}
            if len(queries) == 1:
                found = searcher.search(queries[0], k, **options)[0][None]
            else:
                found = searcher.search_batched(queries, k, **options)[0]
            return np.pad(found.astype(np.int64), ((0, 0), (0, k - found.shape[1])), constant_values=-1)

        def change(value, state=state):
            state["leaves"] = value

        # A code of 4 bits for two values, and the vectors that are reordered by.
        size = count * (vectors.shape[1] // 4 + 4 * vectors.shape[1] + 8)
        one = Settable(
            Library(search, size),
            "leaves_to_search",
            leaves,
            description=f"of {leaves:,}, {reordered} reordered, built in {seconds:.1f} s",
            results_key=reordered,
        )
        one.set, one.build_seconds = change, seconds
        candidates.append(one)
    return Built(candidates, keep=[searcher])


def milvus(case, within):
    """Return milvus-lite's HNSW, called in process."""
    library = pytest.importorskip("milvus_lite", reason="the peer milvus-lite is not installed")
    vectors, begun = case.vectors, perf_counter()
    folder = tempfile.TemporaryDirectory(prefix="milvus")
    database = library.MilvusLite(folder.name)
    schema = library.CollectionSchema(
        fields=[
            library.FieldSchema(name="id", dtype=library.DataType.INT64, is_primary=True),
            library.FieldSchema(name="vec", dtype=library.DataType.FLOAT_VECTOR, dim=vectors.shape[1]),
        ]
    )
    collection = database.create_collection("documents", schema)
    for part in np.array_split(np.arange(len(vectors)), -(-len(vectors) // 5000)):
        collection.insert([{"id": int(i), "vec": vectors[i].tolist()} for i in part])
        if perf_counter() - begun > within:
            raise TooSlow(f"inserting {len(vectors):,} vectors takes longer than {within:g} s")
    about = {"M": LINKS, "efConstruction": CONSTRUCTION}
    collection.flush()  # what is not written has no graph
    collection.create_index("vec", {"index_type": "HNSW", "metric_type": "IP", "params": about})
    collection.load()
    state = {"ef": 64}

    def search(queries, k):
        found = np.full((len(queries), k), -1, np.int64)
        some = collection.search(
            list(queries), top_k=k, metric_type="IP", output_fields=["id"], search_params=dict(state)
        )
        for row, hits in enumerate(some):
            found[row, : len(hits)] = [hit["id"] for hit in hits]
        return found

    size = len(vectors) * (4 * vectors.shape[1] + 8 * LINKS)
    built = settable(Library(search, size), "ef", len(vectors), lambda value: state.update(ef=value), begun)
    built.keep += [database, folder]
    return built


FAISS = {
    "faiss HNSW": hnsw,
    "faiss IVFFlat": ivf,
    "faiss IVF SQ8, refined": lambda case, within: ivf(case, within, codes="SQ8"),
    "faiss IVF PQ fast-scan, refined": lambda case, within: ivf(case, within, codes="PQ"),
    "faiss SQ8, refined": sq8,
}
PEERS = FAISS | {"ScaNN": scann, "hnswlib": hnswlib, "usearch": usearch, "milvus-lite HNSW": milvus}
