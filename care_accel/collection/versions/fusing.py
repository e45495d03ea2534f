"""Two rankings of a collection's chunks made one: that of the vectors, and that of the words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from care_accel.index.fusion import DEPTH, reciprocal_rank_fusion

# Document and number of a chunk: equal scores are ordered by it.
Name = tuple[str, int]


def depth_of(k: int) -> int:
    """Return how deep each ranking must be for the k best of both."""
    return max(k, DEPTH)


def fused(rankings: Sequence[Sequence[Name]], k: int, *, group: bool) -> list[tuple[Name, float]]:
    """Fuse rankings of one query by reciprocal rank.

    Parameters
    ----------
    rankings : sequence of sequence of (str, int)
        Best first.
    k : int
    group : bool
        Each document once, by the chunk of the first ranking that has it; each ranking has it once, too.

    Returns
    -------
    list of tuple
        The chunks and scores of the k best, equal scores by document and chunk.
    """
    chunk_of: dict[str | Name, Name] = {}
    numbers: dict[str | Name, int] = {}
    keys = [[name[0] if group else name for name in ranking] for ranking in rankings]
    for ranking, own in zip(rankings, keys, strict=True):
        for name, key in zip(ranking, own, strict=True):
            chunk_of.setdefault(key, name)
            numbers.setdefault(key, len(numbers))
    scores, order = reciprocal_rank_fusion(
        [np.array([[numbers[key] for key in own]], np.int64) for own in keys], max(len(numbers), 1)
    )
    names = list(chunk_of.values())
    found = [
        (names[number], score)
        for number, score in zip(order[0].tolist(), scores[0].tolist(), strict=True)
        if number >= 0
    ]
    return sorted(found, key=lambda hit: (-hit[1], hit[0]))[:k]
