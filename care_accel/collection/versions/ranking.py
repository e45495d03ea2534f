"""The order of hits: by score, then by id, and each document once; searched deeper until it is proven."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from care_accel.index.fusion import DEPTH

# Extra depth of a first search: ties at the end of a ranking are rare, a document with several good chunks is not.
_SPARE, _SPARE_IN_GROUPS = 4, 3
_DEEPER = 4


def deepest(k: int, *, chunked: bool, lexical: bool) -> int:
    """Return how many vectors' hits decide the k best documents, but for ties and documents of very many chunks."""
    depth = max(k, DEPTH) if lexical else k
    return depth * _SPARE_IN_GROUPS if chunked else depth


class Ranked(NamedTuple):
    """One hit of a ranking.

    Attributes
    ----------
    position : int
        Of the best chunk.
    score : float
        In float64, by which hits are ranked.
    """

    position: int
    score: float


def rank(
    search: Callable[[Sequence[int], int], tuple[NDArray[np.float64], NDArray[np.int64]]],
    queries: int,
    k: int,
    *,
    names: Callable[[Sequence[int]], list[tuple[str, int]]],
    group: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None,
    reachable: int,
) -> list[list[Ranked]]:
    """Return the k best of each query: higher score first, equal scores by id and chunk.

    An index orders equal scores by position, which depends on when a chunk was written. So a search goes deeper than k, until
    the last score is below that of the k-th hit, or there is nothing more.

    Parameters
    ----------
    search : callable
        Given numbers of queries and a depth, returns their scores and positions, best first, -1 for padding.
    queries : int
    k : int
    names : callable
        Ids and chunk numbers of positions, by which equal scores are ordered.
    group : callable, optional
        Document numbers of positions; each document is then there once, by its best chunk.
    reachable : int
        Chunks that a search can find.
    """
    found: list[list[Ranked]] = [[] for _ in range(queries)]
    open_queries = list(range(queries))
    depth = k * _SPARE_IN_GROUPS if group else k + _SPARE
    while open_queries:
        depth = max(1, min(depth, reachable))
        scores, positions = search(open_queries, depth)
        still_open = []
        for row, query in enumerate(open_queries):
            if depth < reachable and not _is_proven(scores[row], positions[row], k, group):
                still_open.append(query)
                continue
            found[query] = _ordered(scores[row], positions[row], k, names, group)
        open_queries = still_open
        depth *= _DEEPER
    return found


def _is_proven(
    scores: NDArray[np.float64],
    positions: NDArray[np.int64],
    k: int,
    group: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None,
) -> bool:
    """Return whether nothing below the last score can be among the k best."""
    if positions[-1] < 0:
        return True
    if group is None:
        return bool(len(scores) > k and scores[-1] < scores[k - 1])
    _, first = np.unique(group(positions), return_index=True)
    if len(first) < k:
        return False
    return bool(scores[-1] < scores[np.sort(first)[k - 1]])


def _ordered(
    scores: NDArray[np.float64],
    positions: NDArray[np.int64],
    k: int,
    names: Callable[[Sequence[int]], list[tuple[str, int]]],
    group: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None,
) -> list[Ranked]:
    some = positions >= 0
    scores, positions = scores[some], positions[some]
    if not len(positions):
        return []
    if _has_ties(scores):
        named = names(positions.tolist())
        order = sorted(range(len(positions)), key=lambda i: (-scores[i], named[i]))
        scores, positions = scores[order], positions[order]
    if group is not None:
        _, first = np.unique(group(positions), return_index=True)
        first.sort()
        scores, positions = scores[first], positions[first]
    return [Ranked(int(p), float(s)) for p, s in zip(positions[:k], scores[:k], strict=True)]


def _has_ties(scores: NDArray[np.float64]) -> bool:
    return bool((scores[1:] == scores[:-1]).any())
