"""A structure at a setting: candidates by faiss, scored exactly by the native code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.index import parts
from care_accel.index.approximate.family import Structure
from care_accel.index.approximate.library import faiss_library
from care_accel.index.checks import Few
from care_accel.index.parts import Found, Part


@dataclass(frozen=True, eq=False)
class Finder:
    """Finds hits among the vectors of a structure.

    Parameters
    ----------
    structure : Structure
    value : int
        Of its setting.
    candidates : int
        How many are rescored for each query.
    ids : numpy.ndarray, optional
        int64: the id of each vector of the structure, -1 for one that is gone; by default its place.
    """

    structure: Structure
    value: int
    candidates: int
    ids: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "_all", self.structure.parameters(self.value))

    def selecting(self, mask: NDArray[np.bool_]) -> Any:
        """Return parameters of a search for vectors of a mask of ids only, for `find`."""
        some = mask if self.ids is None else np.append(mask, False)[self.ids]  # -1 is the last
        bits = np.packbits(some, bitorder="little")
        return self.structure.parameters(self.value, faiss_library().IDSelectorBitmap(bits))

    def find(
        self, base: Sequence[Part], queries: NDArray[np.float32], k: int, threads: int, parameters: Any = None
    ) -> Found:
        """Return the k best of the candidates, with their exact scores; fewer if so many were not found.

        Parameters
        ----------
        base : sequence of Part
            With the vectors of the structure; removed ones are not found.
        queries : numpy.ndarray
            float32 ``[n, width]``.
        k, threads : int
        parameters : object, optional
            Of `selecting`.
        """
        ids = self._candidates(queries, k, threads, parameters)
        if len(ids) == 1:  # as most often, where each microsecond counts
            some = ids[0]
            some.sort()
            return parts.search(base, queries, k, 1, Few(some if some[0] >= 0 else some[some >= 0]))
        ids.sort(axis=1)
        firsts = np.count_nonzero(ids < 0, axis=1)
        found = [
            parts.search(base, queries[row : row + 1], k, 1, Few(ids[row, first:]))
            for row, first in enumerate(firsts)
        ]
        if not found:
            return parts.search(base, queries, k, 1, Few(np.zeros(0, dtype=np.int64)))
        scores, best, rescored = zip(*found, strict=True)
        return np.concatenate(scores), np.concatenate(best), np.concatenate(rescored)

    def ranked(
        self, base: Sequence[Part], queries: NDArray[np.float32], k: int, threads: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the scores of the k best of the candidates, and how many candidates faiss has before each of them.

        So one search tells what fewer candidates would find.

        Parameters
        ----------
        base, queries, k, threads
            As in `find`.

        Returns
        -------
        scores : numpy.ndarray
            float64 ``[n, k]``, descending; ``-inf`` for none.
        ranks : numpy.ndarray
            int64 ``[n, k]``; of none the number of candidates.
        """
        ids = self._candidates(queries, k, threads)
        scores = np.full((len(queries), k), -np.inf)
        ranks = np.full((len(queries), k), ids.shape[1])
        for row, some in enumerate(ids):
            order = np.argsort(some)
            ascending = some[order]
            first = np.searchsorted(ascending, 0)
            found, best, _ = parts.search(base, queries[row : row + 1], k, 1, Few(ascending[first:]))
            scores[row, : found.shape[1]] = found[0]
            ranks[row, : found.shape[1]] = order[np.searchsorted(ascending, best[0])]
        return scores, ranks

    def _candidates(
        self, queries: NDArray[np.float32], k: int, threads: int, parameters: Any = None
    ) -> NDArray[np.int64]:
        """Return ids, int64 ``[n, count]``, as faiss orders them, -1 for none."""
        count = max(self.candidates, k)
        ids = self.structure.search(queries, count, parameters or self._all, threads)  # type: ignore[attr-defined]
        return ids if self.ids is None else np.where(ids < 0, -1, self.ids[ids])
