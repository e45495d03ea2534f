"""Exact search of some of the vectors: of those that are not removed, and of a subset that changes with the query.

Removed vectors are spread at random; an index without removals scans as many. The peer is faiss IndexFlatIP with an ID
selector: a bitmap of the vectors that may be found, or the array of their ids, which is for few. The limit is one read of the
codes of all vectors; a small subset is faster, as its vectors are scored without a scan.
"""

from __future__ import annotations

import numpy as np
import pytest

from bench.scan.test_scan import gaussian, scanned_bytes
from care_accel import ExactIndex

# vectors, width, queries at a time
SIZES = {
    "smoke": [(2_000, 64, 1)],
    "default": [(100_000, 768, 1), (100_000, 768, 32)],
    "full": [(200_000, 768, 1), (200_000, 768, 32)],
}
REMOVED = (0.0, 0.1, 0.5)
SUBSETS = (0.5, 0.05, 0.001)
BATCHES = 16  # of queries, in rotation
K = 10


class Vectors:
    """Vectors and queries, and indexes of them that the engines share."""

    def __init__(self, rows, width):
        self.vectors = gaussian(np.random.default_rng(0), rows, width)
        self.whole = ExactIndex(width)
        self.whole.add(self.vectors)
        self.order = np.random.default_rng(1).permutation(rows)
        self._faiss = None

    def allowed(self, share):
        mask = np.zeros(len(self.order), dtype=bool)
        mask[self.order[: round(share * len(mask))]] = True
        return mask

    def faiss(self):
        library = pytest.importorskip("faiss", reason="the peer faiss is not installed (extra bench)")
        if self._faiss is None:
            self._faiss = library.IndexFlatIP(self.vectors.shape[1])
            self._faiss.add(self.vectors)
        return library, self._faiss


def removed(data, mask):
    index = ExactIndex(data.whole.width)
    index._parts = data.whole._parts  # parts never change: the indexes share them
    index.remove(np.flatnonzero(~mask))
    return lambda queries: index.search(queries, k=K)[1]


def subset(data, mask):
    return lambda queries: data.whole.search(queries, k=K, subset=mask)[1]


def whole(data, mask):
    return lambda queries: data.whole.search(queries, k=K)[1]


def bitmap(data, mask):
    library, index = data.faiss()
    selector = library.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
    chosen = library.SearchParameters(sel=selector)
    return lambda queries: index.search(queries, K, params=chosen)[1]


def array(data, mask):
    if mask.mean() > 0.1:
        pytest.skip("an array of ids is for small subsets")
    library, index = data.faiss()
    chosen = library.SearchParameters(sel=library.IDSelectorArray(np.flatnonzero(mask)))
    return lambda queries: index.search(queries, K, params=chosen)[1]


OURS, WHOLE = "care_accel", "care_accel, all vectors"
ENGINES = {"faiss, IDSelectorBitmap": bitmap, "faiss, IDSelectorArray": array, WHOLE: whole}


def pytest_generate_tests(metafunc):
    sizes = SIZES[metafunc.config.getoption("--bench-size")]
    cases = [
        *(("removed", 1 - share, *size) for size in sizes for share in REMOVED),
        *(("subset", share, *size) for size in sizes for share in SUBSETS),
    ]
    metafunc.parametrize("case", cases, ids=lambda c: "-".join(map(str, c)))
    metafunc.parametrize("engine", [OURS, *ENGINES])


def test_filter(measure, cached, engine, case):
    kind, share, rows, width, count = case
    data = cached((rows, width), "data", lambda: Vectors(rows, width))
    mask = data.allowed(share)
    make = {"removed": removed, "subset": subset}[kind] if engine == OURS else ENGINES[engine]
    search = cached((rows, width), (kind, share, engine), lambda: make(data, mask))
    queries = gaussian(np.random.default_rng(2), BATCHES * count, width)
    what = f"{1 - share:.3g} removed" if kind == "removed" else f"a subset of {share:.3g}"
    ids = measure(
        search,
        [(some,) for some in np.split(queries, BATCHES)],
        group=f"top {K} of {rows:,} x {width}, {what}, {count} {'query' if count == 1 else 'queries'} at a time",
        name=engine,
        ours=engine == OURS,
        parameters={"kind": kind, "share": share, "vectors": rows, "width": width, "queries": count, "k": K},
        limit={"read bandwidth": scanned_bytes(rows, width, count)},
        exact=True,
    )
    if engine != WHOLE:
        assert mask[ids[ids >= 0]].all()  # a small subset has less than k
        found = search(queries[:count])[:, 0]
        scores = queries[:count].astype(np.float64) @ data.vectors[mask].astype(np.float64).T
        # float32 peers may swap two that are nearly equal.
        assert (found == np.flatnonzero(mask)[scores.argmax(axis=1)]).mean() >= 0.9
