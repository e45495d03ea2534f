"""The queries that an approximate index is tuned and checked by, and their exact answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import CareError
from care_accel.index import parts
from care_accel.index.approximate.choice import ERRORS
from care_accel.index.approximate.recall import queries_needed
from care_accel.index.parts import Part

# A third of the queries tunes, so that what passes there with its bound mostly passes with that of the other two thirds.
_TUNING = 1 / 3
# How far a sampled query is moved from its document: so many times the difference of two others.
_MOVED = 0.5
_MOST_SCORES = 2**22


@dataclass(frozen=True)
class Asked:
    """Queries and the exact scores of their k best.

    Attributes
    ----------
    queries : numpy.ndarray
        float32 ``[n, width]``.
    exact : numpy.ndarray
        float64 ``[n, k]``.
    """

    queries: NDArray[np.float32]
    exact: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, chosen: slice) -> Asked:
        return Asked(self.queries[chosen], self.exact[chosen])


def answered(
    base: Sequence[Part],
    queries: NDArray[np.float32],
    k: int,
    threads: int,
    subset: NDArray[np.bool_] | None = None,
) -> Asked:
    """Answer queries by the exact scan."""
    step = max(1, _MOST_SCORES // k)
    blocks = [
        parts.search(base, queries[first : first + step], k, threads, subset)[0]
        for first in range(0, len(queries), step)
    ]
    return Asked(queries, np.concatenate(blocks))


def require_enough(count: int, recall: float, k: int, *, given: bool) -> None:
    """Require as many queries as can prove a recall, if each of them has a recall of 1.

    Raises
    ------
    CareError
        There are fewer.
    """
    needed = queries_needed(recall, ERRORS[0], k, _TUNING)
    if count < needed:
        what, more = ("", "or none, to have queries sampled, ") if given else (" that would be sampled", "")
        raise CareError(
            f"{count:,} queries{what} cannot prove a recall@{k} of {recall}: give at least {needed:,}, {more}"
            "or ask for a lower recall"
        )


def split(
    queries: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return queries that tune, and others that are kept apart, both at random."""
    apart = len(queries) - int(len(queries) * _TUNING)
    order = rng.permutation(len(queries))
    return queries[np.sort(order[apart:])], queries[np.sort(order[:apart])]


def sample_size(recall: float) -> int:
    """Return how many queries are sampled where none are given."""
    return math.ceil(min(max(10 / (1 - recall), 1000), 10_000) / (1 - _TUNING))


def sampled(vectors: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return queries made from documents: each moved by half the difference of two others, at the same length.

    Documents themselves find themselves, which is too easy; noise of another shape than theirs would leave the space in which they
    lie. Such differences have their covariance.
    """
    itself, plus, minus = (vectors[rng.integers(0, len(vectors), count)] for _ in range(3))
    moved = itself + np.float32(_MOVED) * (plus - minus)
    # In float32 the squares of short vectors are 0.
    lengths, wanted = (
        np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True) for rows in (moved, itself)
    )
    return np.ascontiguousarray(
        moved * (wanted / np.maximum(lengths, np.finfo(np.float32).tiny)), dtype=np.float32
    )
