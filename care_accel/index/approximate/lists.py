"""Lists of vectors by their nearest centre, found by k-means within a time.

The exact scan finds the nearest of 4,000 centres in half of the time of faiss's product in float32. Between two such scans
the centres settle: a vector may move to one of the lists next to its own only, which is some forty times fewer products where there are
4,000 lists. The first rounds have few vectors a list, which is enough while centres move far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from care_accel.index.exact import ExactIndex

# Vectors a list in each round. Time must be enough for the first ones; one with more is left out where it would take the time to more than
# its share of what may be used.
_FIRST = (16, 16)
_MORE = ((64, 0.8), (256, 0.5))
# Steps of a round, and how many lists are next to one.
_STEPS, _NEAR = 5, 100
# A round in all takes about so many times as long as its scan. The last scan may end so much later: most has been done by then.
_ROUND, _LATE = 2.0, 1.2
# Vectors that are scanned before time is looked at, and lists that are compared with all at a time.
_SCANNED, _COMPARED = 16_384, 512


class TooSlowError(Exception):
    """Building a structure would take longer than it may."""


def too_slow(seconds: float) -> TooSlowError:
    """Return the error that so many seconds are too many."""
    return TooSlowError(f"would take some {seconds:{'.0f' if seconds >= 1 else '.1g'}} s to build")


@dataclass(frozen=True)
class Lists:
    """Lists of vectors by their nearest centre, found once for all codes.

    Attributes
    ----------
    centres : numpy.ndarray
        float32 ``[lists, width]``, of length 1.
    places : numpy.ndarray
        int64 ``[n]``: the list of each vector.
    """

    centres: NDArray[np.float32]
    places: NDArray[np.int64]


def find_lists(
    count: int, vectors: NDArray[np.float32], seconds: float, seed: int, threads: int = 1
) -> Lists:
    """Return so many lists of vectors.

    Parameters
    ----------
    count : int
    vectors : numpy.ndarray
        float32 ``[n, width]``.
    seconds : float
        How long it may take.
    seed, threads : int

    Raises
    ------
    TooSlowError
        It would take longer.
    """
    begun = perf_counter()
    order = np.random.default_rng(seed).permutation(len(vectors))
    centres = of_length_1(vectors[np.sort(order[:count])])
    scanned, scanning = 0, 0.0  # vectors, and seconds

    def nearest(some: NDArray[np.float32], then: float, until: float) -> NDArray[np.int64]:
        """Return the list of each vector, if these and so many more can be scanned in time."""
        nonlocal scanned, scanning
        index, places = ExactIndex(vectors.shape[1], threads=threads), []
        index.add(centres)
        for first in range(0, len(some), _SCANNED):
            since = perf_counter()
            places.append(index.search(some[first : first + _SCANNED], 1)[1][:, 0])
            scanned, scanning = scanned + len(places[-1]), scanning + perf_counter() - since
            rest = len(some) - first - len(places[-1]) + then
            # On a busy machine the first few say little.
            late = (expected := perf_counter() + rest * scanning / scanned) > until
            if late and (scanned >= _FIRST[0] * count or perf_counter() > until):
                raise too_slow(expected - begun)
        return np.concatenate(places)

    def settled(size: int, then: float) -> NDArray[np.float32]:
        some = vectors if size == len(vectors) else vectors[np.sort(order[:size])]
        return _settled(some, centres, nearest(some, (_ROUND - 1) * size + then, begun + seconds))

    sizes = [min(one * count, len(vectors)) for one in _FIRST]
    for place, size in enumerate(sizes):
        centres = settled(size, _ROUND * sum(sizes[place + 1 :]) + len(vectors))
    for one, share in _MORE:
        size = min(one * count, len(vectors))
        expected = perf_counter() + (_ROUND * size + len(vectors)) * scanning / scanned
        if expected > begun + share * seconds:
            break
        centres = settled(size, len(vectors))
    return Lists(centres, nearest(vectors, 0, begun + _LATE * seconds))


def _settled(
    vectors: NDArray[np.float32], centres: NDArray[np.float32], places: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the centres after some steps of k-means, in which vectors move to lists next to their own."""
    members = _members(places, len(centres))
    centres = _means(vectors, members, centres)
    near = _neighbours(centres)  # centres move little from here on
    for _ in range(1, _STEPS):
        for own, some in zip(members, near, strict=True):
            places[own] = some[(vectors[own] @ centres[some].T).argmax(axis=1)]
        members = _members(places, len(centres))
        centres = _means(vectors, members, centres)
    return centres


def _members(places: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    """Return which vectors are in each list, ascending."""
    ends = np.cumsum(np.bincount(places, minlength=count))
    return np.split(np.argsort(places, kind="stable"), ends[:-1])


def _means(
    vectors: NDArray[np.float32], members: Sequence[NDArray[np.int64]], before: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the directions of the means of all lists; empty ones begin again with the farthest vectors of the largest."""
    means = np.empty_like(before)
    for own, mean in zip(members, means, strict=True):
        vectors[own].sum(axis=0, out=mean)
    sizes = np.array([len(own) for own in members])
    empty, full = np.flatnonzero(sizes == 0), np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    for place, largest in enumerate(full[: len(empty)]):
        again, own = empty[place :: len(full)], members[largest]
        farthest = own[np.argsort(vectors[own] @ means[largest], kind="stable")]
        means[again] = vectors[np.resize(farthest, len(again))]
    return of_length_1(means)


def _neighbours(centres: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the lists that are next to each one, itself included: int64 ``[lists, near]``."""
    near = min(_NEAR, len(centres))
    blocks = np.split(centres, range(_COMPARED, len(centres), _COMPARED))
    return np.concatenate([np.argpartition(some @ -centres.T, near - 1, axis=1)[:, :near] for some in blocks])


def of_length_1(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows of length 1, but for rows of zeros."""
    # In float32 the squares of short vectors are 0.
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0, casting="same_kind")
