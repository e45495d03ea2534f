"""What a search has to find, in plain NumPy."""

import numpy as np

from care_accel import ExactIndex


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
