"""What a search has to find, in plain NumPy."""

import numpy as np

from care_accel import ExactIndex, _native


def vectors_of(rows, width=6, seed=0):
    """Return vectors of few different values: many scores are equal."""
    return np.random.default_rng(seed).integers(-2, 3, (rows, width)).astype(np.float32)


def index_of(vectors, int4=False):
    index = ExactIndex(vectors.shape[1])
    if int4:
        index._parts[0].codes.int4_min_bytes = 0
    index.add(vectors)
    return index


def hits_of(vectors, query, k, mask):
    """Return float64 scores and ids of the k best of a mask; the scores of such values are exact."""
    scores = vectors[:, : len(query)].astype(np.float64) @ query.astype(np.float64)
    order = np.lexsort((np.arange(len(scores)), -scores))
    order = order[mask[order]][:k]
    best, ids = np.full(k, -np.inf), np.full(k, -1)
    best[: len(order)], ids[: len(order)] = scores[order], order
    return best, ids


def assert_found(index, vectors, mask, queries, k, **options):
    scores, ids, rescored = index.search_in_float64(queries, k, **options)
    for row, query in enumerate(queries):
        best, order = hits_of(vectors, query, k, mask)
        np.testing.assert_array_equal(ids[row], order)
        np.testing.assert_array_equal(scores[row], best)
    assert (rescored <= mask.sum()).all()


def defined_scores(vectors, query):
    """The score of csrc/include/care/score.hpp for all vectors, float64 ``[n]``."""
    width = len(query)
    padded = -(-width // 8) * 8
    documents = np.zeros((len(vectors), padded))
    documents[:, :width] = vectors
    values = np.zeros(padded)
    values[:width] = query
    a = np.zeros((len(vectors), 8))
    for j in range(0, padded, 8):
        a += documents[:, j : j + 8] * values[j : j + 8]
    return ((a[:, 0] + a[:, 4]) + (a[:, 2] + a[:, 6])) + ((a[:, 1] + a[:, 5]) + (a[:, 3] + a[:, 7]))


def expected_hits(vectors, query, k, mask=None):
    """Float64 scores and ids of the k best by brute force."""
    scores = defined_scores(vectors, query)
    order = np.lexsort((np.arange(len(scores)), -scores))
    if mask is not None:
        order = order[mask[order]]
    order = order[:k]
    best, ids = np.full(k, -np.inf), np.full(k, -1)
    best[: len(order)], ids[: len(order)] = scores[order], order
    return best, ids


def search(index, queries, k, instruction_set="", allowed=None, threads=2, int4=True):
    codes = index._parts[0].codes
    return _native.search(
        index.vectors,
        **(codes.search_arguments() if int4 else codes.arguments()),
        queries=np.ascontiguousarray(queries),
        k=k,
        threads=threads,
        allowed=allowed,
        instruction_set=instruction_set,
    )


def assert_exact(index, queries, k, **options):
    width = queries.shape[1]
    expected = [expected_hits(index.vectors[:, :width], query, k) for query in queries]
    # A single query uses the int4 codes, if there are any.
    for int4 in (True, False) if len(queries) == 1 else (True,):
        scores, ids, rescored = search(index, queries, k, int4=int4, **options)
        for row, (best, order) in enumerate(expected):
            np.testing.assert_array_equal(ids[row], order)
            np.testing.assert_array_equal(scores[row], best)
    return rescored
