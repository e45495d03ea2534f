"""A structure at a setting: candidates by faiss, scored exactly by the native code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel import _native
from care_accel.index import parts
from care_accel.index.approximate.family import Structure
from care_accel.index.approximate.library import faiss_library
from care_accel.index.approximate.one_query import OneQuery
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
    # Parameters of a search for all vectors, and what searches for one query.
    _all: Any = field(init=False, repr=False)
    _one: OneQuery | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_all", self.structure.parameters(self.value))
        object.__setattr__(self, "_one", self.structure.one_query(self.candidates, self.ids))

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
        if len(queries) == 1 and (one := self.find_one(base, queries, k, parameters)) is not None:
            return one
        found = [
            self._scored(base, some, queries[row : row + 1], k)
            for row, some in enumerate(self._candidates(queries, k, threads, parameters))
        ]
        if not found:
            return parts.search(base, queries, k, 1, Few(np.zeros(0, dtype=np.int64)))
        scores, best, rescored = zip(*found, strict=True)
        return np.concatenate(scores), np.concatenate(best), np.concatenate(rescored)

    def find_one(self, base: Sequence[Part], query: Any, k: int, parameters: Any = None) -> Found | None:
        """Return the same for one query, in the least time.

        Parameters
        ----------
        base, k, parameters
            As in `find`.
        query : object
            Anything. None is returned but for a finite float32 array in C order, ``[width]`` or ``[1, width]``, and where `find`
            has to be called: for more hits than candidates, and of several parts.
        """
        if self._one is None or k > self.candidates or len(base) > 1:
            return None
        return self._one.find(base[0], query, k, parameters or self._all)

    def _scored(
        self, base: Sequence[Part], candidates: NDArray[np.int64], query: NDArray[np.float32], k: int
    ) -> Found:
        if len(base) == 1:
            return _native.search_candidates(base[0].vectors, candidates, query, k, self.ids, base[0].alive)
        some = np.sort(self._named(candidates))
        return parts.search(base, query, k, 1, Few(some[np.searchsorted(some, 0) :]))

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
        candidates = self._candidates(queries, k, threads)
        scores = np.full((len(queries), k), -np.inf)
        ranks = np.full((len(queries), k), candidates.shape[1])
        for row, some in enumerate(candidates):
            found, best, _ = self._scored(base, some, queries[row : row + 1], k)
            many = int(np.count_nonzero(best >= 0))
            scores[row, :many] = found[0, :many]
            ranks[row, :many] = (self._named(some) == best[0, :many, np.newaxis]).argmax(axis=1)
        return scores, ranks

    def _candidates(
        self, queries: NDArray[np.float32], k: int, threads: int, parameters: Any = None
    ) -> NDArray[np.int64]:
        """Return places in the structure, int64 ``[n, count]``, as faiss orders them, -1 for none."""
        return self.structure.search(queries, max(self.candidates, k), parameters or self._all, threads)

    def _named(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids of places in the structure, -1 for none."""
        return places if self.ids is None else np.where(places < 0, -1, self.ids[places])
