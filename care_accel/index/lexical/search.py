"""The search that lexical indexes share: the scores of every document to the k best."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from care_accel.errors import require_count
from care_accel.index.checks import subset_mask

# Of so many documents the best one is compared first.
_GROUP = 64


class LexicalSearch(ABC):
    """Searches by the scores of every document, which are positive for those that share a term with the query, and else 0."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of positions."""

    @abstractmethod
    def scores(self, query: str) -> NDArray[np.float32]:
        """Return the score of every document, float32 ``[len(self)]``."""

    def search(
        self, queries: Sequence[str], k: int = 10, *, subset: ArrayLike | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the k best documents of each query.

        Parameters
        ----------
        queries : sequence of str
        k : int
        subset : array_like, optional
            Search only these documents: a mask, bool ``[len(self)]``, or positions in any order. Term weights stay those of
            all.

        Returns
        -------
        scores : numpy.ndarray
            float32 ``[n, k]``, descending; padded with ``-inf`` if fewer than k documents share a term with the query.
        positions : numpy.ndarray
            int64 ``[n, k]``, ascending among equal scores; padded with -1.

        Raises
        ------
        CareError
            k is below 1, or a document of the subset does not exist.
        """
        require_count("k", k)
        mask = None if subset is None else subset_mask(subset, len(self))
        best = np.full((len(queries), k), -np.inf, dtype=np.float32)
        positions = np.full((len(queries), k), -1, dtype=np.int64)
        for row, query in enumerate(queries):
            scores = self.scores(query)
            if mask is not None:
                scores *= mask
            found = _best(scores, k)
            best[row, : len(found)] = scores[found]
            positions[row, : len(found)] = found
        return best, positions


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the positions of the k best scores above 0, best first, equal ones by position."""
    groups = len(scores) // _GROUP
    least = np.float32(0)
    if k < groups:
        # k groups have a score of at least this, so that the k best are not below it.
        maxima = scores[: groups * _GROUP].reshape(_GROUP, groups).max(axis=0)
        least = np.partition(maxima, groups - k)[groups - k]
    found = np.flatnonzero(scores >= least if least > 0 else scores > 0)
    return found[np.argsort(-scores[found], kind="stable")][:k]
