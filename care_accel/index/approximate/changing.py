"""An index whose first vectors are in a structure, and which changes while it is searched."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import ArrayLike, NDArray

from care_accel.index import checks, parts
from care_accel.index.approximate.choice import STALE, Choice
from care_accel.index.approximate.finder import Finder
from care_accel.index.approximate.state import State, count
from care_accel.index.exact import ExactIndex
from care_accel.index.parts import Part
from care_accel.index.store import Stored


class ChangingIndex:
    """The parts of an `ApproximateIndex` that hold its vectors and change them."""

    def __init__(
        self, index: Stored, built: int, choice: Choice, finder: Finder | None, *, device: str, threads: int
    ) -> None:
        """Use the parts of an index, of which the first ``built`` vectors are in a structure."""
        self.width = index.width
        self.order = index.order
        self.encoder_revision = index.encoder_revision
        self.device = device
        self.threads = threads
        # Held by changes and by a rebuild in the background, which takes its place between two of them.
        self._changing = threading.Lock()
        end = 0
        while count(index.parts[:end]) < built:
            end += 1
        base = index.parts[:end] or (Part.empty(self.width),)
        self._state = State(base, index.parts[end:], choice, finder)

    def __len__(self) -> int:
        return count(self._state.parts)

    @property
    def choice(self) -> Choice:
        """How it was chosen, with all that was measured."""
        return self._state.choice

    @property
    def finder(self) -> Finder | None:
        """What finds candidates among the vectors that it was built of; None if every search is an exact scan."""
        return self._state.finder

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The vectors, removed ones included, read-only float32 ``[len(self), width]``; a copy if there are several parts."""
        return parts.vectors(self._state.parts)

    @property
    def removed(self) -> NDArray[np.bool_]:
        """Which vectors are removed: a read-only mask, bool ``[len(self)]``."""
        return parts.removed(self._state.parts)

    @property
    def alive(self) -> int:
        """Number of vectors that are not removed."""
        return sum(part.alive_count for part in self._state.parts)

    @property
    def stale(self) -> bool:
        """Whether so much was added and removed since the build (a fifth of its vectors) that it should be built again.

        Hits of a stale index are as good as before: what was added is scanned exactly, what was removed is not found. But a search
        takes longer than it has to, and its recall was proven for other vectors.
        """
        state = self._state
        return state.changed > STALE * max(state.choice.vectors, 1)

    def add(self, vectors: ArrayLike, *, convert: bool = False) -> None:
        """Append vectors, which are searched exactly from now on; see `ExactIndex.add`."""
        rows = checks.checked_rows(
            checks.as_floats(vectors, "vectors", convert=convert), self.width, "vectors"
        )
        with self._changing:
            self._state = self._state.extended(rows, self.threads)

    def remove(self, ids: ArrayLike) -> int:
        """Remove vectors; return how many were removed that were not before. See `ExactIndex.remove`."""
        with self._changing:
            before = self.alive
            self._state = self._state.without(checks.checked_ids(ids, "ids", len(self)))
            return before - self.alive

    def replace(self, ids: ArrayLike, vectors: ArrayLike, *, convert: bool = False) -> NDArray[np.int64]:
        """Remove vectors and append others in one step; return the ids of the new ones. See `ExactIndex.replace`."""
        rows = checks.checked_rows(
            checks.as_floats(vectors, "vectors", convert=convert), self.width, "vectors"
        )
        with self._changing:
            before = len(self)
            kept = self._state.without(checks.checked_ids(ids, "ids", before))
            self._state = kept.extended(rows, self.threads)
        return np.arange(before, before + len(rows))

    def exact_hits(
        self, queries: ArrayLike, k: int = 10, *, subset: ArrayLike | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return what an exact scan of the same vectors finds, to compare; see `ExactIndex.search`."""
        return self._exact(self._state).search(queries, k, subset=subset)

    def _exact(self, state: State) -> ExactIndex:
        whole = ExactIndex(
            self.width, threads=self.threads, encoder_revision=self.encoder_revision, order=self.order
        )
        whole._parts, whole.device = state.parts, self.device
        return whole
