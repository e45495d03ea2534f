"""Search on one version of a collection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.collection.storage.manifest import Manifest
from care_accel.collection.storage.table import Table
from care_accel.collection.versions.ranking import Ranked, rank
from care_accel.collection.versions.snapshot import Snapshot
from care_accel.errors import CareError
from care_accel.retriever import Hit

# Masks of filters that are kept, a byte a chunk each: filters come again.
_KEPT_MASKS = 32


class Searcher:
    """A version of a collection, for searches; it never changes.

    Parameters
    ----------
    table : Table
    snapshot : Snapshot
        Of the same version.
    manifest : Manifest
    """

    def __init__(self, table: Table, snapshot: Snapshot, manifest: Manifest) -> None:
        self.table = table
        self.snapshot = snapshot
        self.manifest = manifest
        self._chunked = manifest.chunk_tokens is not None
        self._names_of_fields = list(table.fields)
        self._masks: dict[str, tuple[NDArray[np.bool_], int]] = {}
        self._masking = threading.Lock()

    def mask(self, expression: str) -> tuple[NDArray[np.bool_], int]:
        """Return which positions a filter leaves, bool ``[positions]``, and their number.

        Raises
        ------
        CareError
            The filter is wrong; the message has the fields.
        """
        with self._masking:
            found = self._masks.pop(expression, None)
        if found is None:
            self.table.check_filter(expression)
            positions = self.snapshot.positions(self.table.filtered(expression))
            mask = np.zeros(len(self.snapshot.index), dtype=bool)
            if self._chunked:
                documents = self.snapshot.document_of
                chosen = np.zeros(len(self.snapshot.first_chunk_of), dtype=bool)
                chosen[documents[positions]] = True
                mask = chosen[documents] & self.snapshot.alive
            else:
                mask[positions] = True
            found = mask, int(mask.sum())
        with self._masking:
            self._masks[expression] = found
            while len(self._masks) > _KEPT_MASKS:
                self._masks.pop(next(iter(self._masks)))
        return found

    def rank(
        self,
        vectors: NDArray[np.float32],
        k: int,
        queries: Sequence[str] | None = None,
        *,
        filter: str | None = None,
        group: bool = True,
        rescored: list[int] | None = None,
    ) -> list[list[Ranked]]:
        """Return positions and scores of the k best of each query; see `Collection.search`.

        ``rescored`` gets the number of vectors that each scan scored exactly.
        """
        index = self.snapshot.index
        mask, reachable = (None, index.alive) if filter is None else self.mask(filter)
        grouping: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None
        if group and self._chunked:
            documents = self.snapshot.document_of
            grouping = lambda positions: np.where(positions >= 0, documents[positions], -1)  # noqa: E731
        if not len(vectors):
            return []

        def dense(rows: Sequence[int], depth: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
            some = vectors if len(rows) == len(vectors) else vectors[list(rows)]
            scores, positions, counts = index.search_in_float64(some, depth, subset=mask)
            if rescored is not None:
                rescored.append(int(counts.sum()))
            return scores, positions

        return rank(dense, len(vectors), k, names=self._names, group=grouping, reachable=reachable)

    def _names(self, positions: Sequence[int]) -> list[tuple[str, int]]:
        return [self.snapshot.rows.chunk(position)[:2] for position in positions]

    def hits(self, ranked: Sequence[Sequence[Ranked]]) -> list[list[Hit]]:
        """Return hits with the documents of their positions."""
        return [[self._hit(one) for one in row] for row in ranked]

    def _hit(self, one: Ranked) -> Hit:
        identifier, document, span = self.document(one.position)
        return Hit(identifier, _as_float32(one.score), document, span)

    def document(self, position: int) -> tuple[str, dict[str, Any], tuple[int, int] | None]:
        """Return id and row of the document at a position, and the span of its chunk; None if it is the whole text."""
        rows = self.snapshot.rows
        if not self._chunked:
            document = self._complete(rows.document(position))
            return document["id"], document, None
        identifier, _, start, end = rows.chunk(position)
        first = int(self.snapshot.first_chunk_of[self.snapshot.document_of[position]])
        if first < 0:
            raise CareError(f"document {identifier!r} has no first chunk; run care-accel collection verify")
        return identifier, self._complete(rows.document(first)), (start, end)

    def _complete(self, document: dict[str, Any]) -> dict[str, Any]:
        """Add fields that are newer than the document."""
        for name in self._names_of_fields:
            document.setdefault(name, None)
        return document


def _as_float32(score: float) -> float:
    return float(np.float32(score))
