"""A structure that finds candidates in an index it was not built of: one that has changed and moved since."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import require_count
from care_accel.index import checks, parts
from care_accel.index.approximate.choice import STALE, Choice
from care_accel.index.approximate.finder import Finder
from care_accel.index.approximate.watching import RecallWatch
from care_accel.index.exact import ExactIndex
from care_accel.index.parts import Found, Part

# A search that goes deeper than so many times the k of the build is an exact scan.
_DEEPEST = 8


class AttachedIndex:
    """An exact index, of whose vectors some are found by a structure; the others are scanned exactly.

    It is searched as `ApproximateIndex` is, and has its promise, but nothing of it changes: another version of the index is attached
    anew. So the structure outlives what joins or drops vectors of the index.

    Parameters
    ----------
    exact : ExactIndex
        Does not change.
    finder : Finder
    positions : numpy.ndarray
        int64 ``[vectors of the structure]``: the id in ``exact`` of each, -1 for one that is not there any more.
    choice : Choice
        How the structure was chosen.
    watch : RecallWatch, optional
        Told of every query that is answered approximately.
    """

    def __init__(
        self,
        exact: ExactIndex,
        finder: Finder,
        positions: NDArray[np.int64],
        choice: Choice,
        watch: RecallWatch | None = None,
    ) -> None:
        self.exact = exact
        self.choice = choice
        self._watch = watch
        self._parts = exact._parts
        self._inside = np.zeros(len(exact), dtype=bool)
        self._inside[positions[positions >= 0]] = True
        self._inside &= ~exact.removed
        self._kept = int(np.count_nonzero(self._inside))
        self._finder = replace(finder, ids=positions)
        whole = self._kept == choice.vectors
        self._selection = None if whole else self._finder.selecting(self._inside)
        self._beside: list[tuple[int, Part, NDArray[np.bool_]]] = []
        start = 0
        for part in self._parts:
            others = ~part.removed & ~self._inside[start : start + part.count]
            if others.any():
                self._beside.append((start, part, others))
            start += part.count

    @property
    def beside(self) -> int:
        """How many vectors are not in the structure, and are scanned exactly."""
        return self.exact.alive - self._kept

    @property
    def stale(self) -> bool:
        """Whether so much was added and removed since that it should be built again; see `ApproximateIndex.stale`."""
        return self.beside + self.choice.vectors - self._kept > STALE * max(self.choice.vectors, 1)

    def search_in_float64(
        self,
        queries: NDArray[np.float32],
        k: int = 10,
        *,
        subset: NDArray[np.bool_] | None = None,
        promised: int | None = None,
    ) -> Found:
        """Return scores in float64 ``[n, k]``, ids and rescored counts; see `ExactIndex.search_in_float64`.

        Parameters
        ----------
        queries : numpy.ndarray
            float32 ``[n, width]``.
        k : int
        subset : numpy.ndarray, optional
            bool ``[len(exact)]``.
        promised : int, optional
            Of so many of the k hits the recall counts; the others only show what comes next. By default all.
        """
        require_count("k", k)
        rows = checks.checked_rows(checks.as_floats(queries, "queries"), self.exact.width, "queries")
        counted = min(k, promised or k)
        own = self._inside if subset is None else self._inside & subset
        left = self._kept if subset is None else int(np.count_nonzero(own))
        share = left / max(self.choice.vectors, 1)
        deep = k > _DEEPEST * self.choice.k
        if deep or not self.choice.allows(len(rows), counted, share, subset=subset is not None):
            return self.exact.search_in_float64(rows, k, subset=subset)
        selection = self._selection if subset is None else self._finder.selecting(own)
        threads = self.exact.threads
        found = self._finder.find(self._parts, rows, k, threads, selection)
        # Lists may hold fewer: what is missing is scanned for.
        wanted = min(k, left)
        short = np.flatnonzero(found[1][:, wanted - 1] < 0) if wanted else ()
        if len(short):
            whole = parts.search(self._parts, rows[short], k, threads, own)
            for array, other in zip(found, whole, strict=True):
                array[short] = other
        starts, several = [0], [found]
        for start, part, others in self._beside:
            some = others if subset is None else others & subset[start : start + part.count]
            # A part without a vector of the structure is scanned as it is.
            alone = subset is None and np.count_nonzero(some) == part.alive_count
            chosen = None if alone else checks.few_or_mask(some, part.count)
            starts.append(start)
            several.append(part.search(rows, k, threads, chosen))
        found = parts.merged(starts, several, k) if self._beside else found
        if self._watch is not None:
            self._watch.note(
                self.choice,
                rows,
                found[0][:, :counted],
                lambda query, k: parts.search(self._parts, query, k, 1, subset)[0],
            )
        return found
