"""Fusion of several rankings of the same documents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# The constant of reciprocal rank fusion: the smaller, the more the first ranks count. Cormack, Clarke and Buettcher
# (SIGIR 2009) use 60 for long rankings of similar systems. For vectors and BM25 a smaller constant is better (dev sets,
# docs/search.md).
CONSTANT = 5
# Weight of the lexical ranking relative to that of the vectors. At 2, which suited a weaker model, fusion lost 1 to 4 points
# to care-mini alone on two of three dev sets; from 0.25 to 1 it gains on all.
LEXICAL_WEIGHT = 0.5
# Depth of each ranking, or k if that is larger: up to it the order does not depend on k.
DEPTH = 100


def reciprocal_rank_fusion(
    rankings: Sequence[NDArray[np.int64]],
    k: int,
    weights: Sequence[float] = (1.0, LEXICAL_WEIGHT),
    *,
    constant: float = CONSTANT,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Fuse rankings by the sum of weight / (constant + rank), rank from 1.

    Parameters
    ----------
    rankings : sequence of numpy.ndarray
        Ids, best first, int64 ``[n, depth]`` each (depths may differ); -1 for no document.
    k : int
    weights : sequence of float
        One per ranking; by default those of the vectors and of the lexical index.
    constant : float
        5 by default.

    Returns
    -------
    scores : numpy.ndarray
        float32 ``[n, k]``, descending; padded with ``-inf`` if fewer than k documents were ranked.
    ids : numpy.ndarray
        int64 ``[n, k]``, ascending among equal scores; padded with -1.
    """
    count = len(rankings[0])
    scores = np.full((count, k), -np.inf, dtype=np.float32)
    ids = np.full((count, k), -1, dtype=np.int64)
    for row in range(count):
        fused: dict[int, float] = {}
        for weight, ranking in zip(weights, rankings, strict=True):
            for rank, document in enumerate(ranking[row].tolist(), start=1):
                if document >= 0:
                    fused[document] = fused.get(document, 0.0) + weight / (constant + rank)
        # Rounded, so that sums that are equal as fractions tie; all others differ by more.
        best = sorted(fused.items(), key=lambda hit: (-round(hit[1], 12), hit[0]))[:k]
        if best:
            ids[row, : len(best)], scores[row, : len(best)] = zip(*best, strict=True)
    return scores, ids
