"""Word statistics of documents that lie in several indexes: each scores its own as one index of all would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from care_accel.index.lexical.search import LexicalSearch


class WordStatistics(NamedTuple):
    """What BM25 needs to know of all documents.

    Attributes
    ----------
    alive : int
        Number of documents.
    length : int
        Sum of their lengths.
    having : sequence of numpy.ndarray
        For each query, how many documents have each of its different grams, int64 ``[grams]``.
    """

    alive: int
    length: int
    having: Sequence[NDArray[np.int64]]


def total(parts: Sequence[WordStatistics]) -> WordStatistics:
    """Return the statistics of the documents of several indexes, for the same queries."""
    return WordStatistics(
        sum(part.alive for part in parts),
        sum(part.length for part in parts),
        [np.sum(some, axis=0) for some in zip(*(part.having for part in parts), strict=True)],
    )


class _Scores(Protocol):
    """A `LexicalIndex`."""

    def __len__(self) -> int: ...

    def scores(self, query: str, statistics: WordStatistics | None = None) -> NDArray[np.float32]:
        """Return the score of every document."""


class WithStatistics(LexicalSearch):
    """A lexical index that scores by the statistics of more documents than its own.

    Parameters
    ----------
    index : LexicalIndex
    queries : sequence of str
        All that will be searched for.
    statistics : WordStatistics
        Of these queries.
    """

    def __init__(self, index: _Scores, queries: Sequence[str], statistics: WordStatistics) -> None:
        self._index = index
        self._alive, self._length = statistics.alive, statistics.length
        self._having: Mapping[str, NDArray[np.int64]] = dict(zip(queries, statistics.having, strict=True))

    def __len__(self) -> int:
        return len(self._index)

    def scores(self, query: str) -> NDArray[np.float32]:
        """Return the score of every document; see `LexicalIndex.scores`."""
        having = self._having[query]
        return self._index.scores(query, WordStatistics(self._alive, self._length, [having]))
