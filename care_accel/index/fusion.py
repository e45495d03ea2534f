"""Several rankings of the same documents to one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Of Cormack, Clarke and Buettcher (SIGIR 2009): how little a first place counts more than a second.
CONSTANT = 60
# Places of each ranking that are looked at, and k where that is more: up to it the order does not depend on k.
DEPTH = 100


def reciprocal_rank_fusion(
    rankings: Sequence[NDArray[np.int64]], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Fuse rankings by the sum of 1 / (60 + rank), rank from 1.

    Parameters
    ----------
    rankings : sequence of numpy.ndarray
        Ids best first, int64 ``[n, depth]`` each (depths may differ); -1 is no document.
    k : int

    Returns
    -------
    scores : numpy.ndarray
        float32 ``[n, k]``, descending; ``-inf`` where fewer than k documents were ranked.
    ids : numpy.ndarray
        int64 ``[n, k]``, ascending among equal scores; -1 beside ``-inf``.
    """
    count = len(rankings[0])
    scores = np.full((count, k), -np.inf, dtype=np.float32)
    ids = np.full((count, k), -1, dtype=np.int64)
    for row in range(count):
        fused: dict[int, float] = {}
        for ranking in rankings:
            for rank, document in enumerate(ranking[row].tolist(), start=1):
                if document >= 0:
                    fused[document] = fused.get(document, 0.0) + 1.0 / (CONSTANT + rank)
        best = sorted(fused.items(), key=lambda hit: (-hit[1], hit[0]))[:k]
        if best:
            ids[row, : len(best)], scores[row, : len(best)] = zip(*best, strict=True)
    return scores, ids
