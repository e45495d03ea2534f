"""Lists of vectors by their nearest centre, found by faiss's k-means within a time."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from care_accel.index.approximate.library import faiss_library

# Vectors a list that its centre is found by: as many as faiss takes at most, or fewer where that would take long.
_TRAINED_PER_LIST = (256, 128, 64)
# The share of the time that a structure may take, up to which more vectors than the fewest are taken.
_LONG = 0.25
# How many products estimate the time of k-means; what takes longer is seen after its first iteration.
_MEASURED = 4
# Of k-means; where time is short it ends after fewer, which move the centres most.
_ITERATIONS, _FEWEST_ITERATIONS = 10, 4
# Vectors that are put into lists at a time.
_ADDED = 65_536


class TooSlowError(Exception):
    """Building a structure would take longer than it may."""


def too_slow(seconds: float) -> TooSlowError:
    """Return the error that so many seconds are too many."""
    return TooSlowError(f"would take some {seconds:.0f} s to build")


@dataclass(frozen=True)
class Lists:
    """Lists of vectors by their nearest centre, found once for all codes.

    Attributes
    ----------
    centres : numpy.ndarray
        float32 ``[lists, width]``.
    places : numpy.ndarray
        int64 ``[n]``: the list of each vector.
    """

    centres: NDArray[np.float32]
    places: NDArray[np.int64]


def find_lists(count: int, vectors: NDArray[np.float32], seconds: float, seed: int) -> Lists:
    """Return so many lists of vectors.

    faiss's k-means is called for one iteration at a time, so that what takes longer than was estimated can be ended.

    Parameters
    ----------
    count : int
    vectors : numpy.ndarray
        float32 ``[n, width]``.
    seconds : float
        How long it may take.
    seed : int

    Raises
    ------
    TooSlowError
        It would take longer.
    """
    until = perf_counter() + seconds
    faiss, width = faiss_library(), vectors.shape[1]
    wanted = count * _points_per_list(count, vectors, seconds)
    some = vectors
    if wanted < len(vectors):
        some = vectors[np.sort(np.random.default_rng(seed).choice(len(vectors), wanted, replace=False))]
    quantizer, means = faiss.IndexFlatIP(width), faiss.Clustering(width, count)
    means.seed, means.niter, means.spherical = seed, 1, True
    means.min_points_per_centroid, means.max_points_per_centroid = 1, max(256, -(-len(some) // count))
    for done in range(1, _ITERATIONS + 1):
        begun = perf_counter()
        means.train(some, quantizer)  # begins with the centres that it has
        took = perf_counter() - begun
        rest = took * len(vectors) / len(some)
        if perf_counter() + rest + took * max(0, _FEWEST_ITERATIONS - done) > until:
            raise too_slow(took * _FEWEST_ITERATIONS + rest)
        if perf_counter() + rest + took > until and done >= _FEWEST_ITERATIONS:
            break
    places = np.empty(len(vectors), dtype=np.int64)
    for first in range(0, len(vectors), _ADDED):
        block = slice(first, first + _ADDED)
        places[block] = quantizer.search(vectors[block], 1)[1][:, 0]
    return Lists(quantizer.reconstruct_n(0, count), places)


def _points_per_list(count: int, vectors: NDArray[np.float32], seconds: float) -> int:
    """Return how many vectors a list are clustered; their products, and those that find each vector's list, are estimated by a few."""
    some = np.ascontiguousarray(vectors[: min(len(vectors), 2048)])
    product, times = np.empty((len(some), len(some)), dtype=np.float32), []
    for _ in range(_MEASURED):  # the first one warms up, and on a busy machine some are interrupted
        begun = perf_counter()
        np.matmul(some, some.T, out=product)
        times.append(perf_counter() - begun)
    rate = max(min(times), 1e-9) / len(some) ** 2
    for points in _TRAINED_PER_LIST:
        fewest = points == _TRAINED_PER_LIST[-1]
        iterations = _FEWEST_ITERATIONS if fewest else _ITERATIONS
        expected = rate * count * (iterations * min(len(vectors), points * count) + len(vectors))
        if expected <= seconds * (1 if fewest else _LONG):
            return points
    raise too_slow(expected)
