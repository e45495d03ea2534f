"""Search on one version of a collection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.collection.storage.manifest import Manifest
from care_accel.collection.storage.table import Table
from care_accel.collection.versions.fusing import Name, depth_of, fused
from care_accel.collection.versions.ranking import Ranked, rank
from care_accel.collection.versions.snapshot import Snapshot
from care_accel.errors import CareError
from care_accel.index.approximate.attached import AttachedIndex
from care_accel.index.lexical.search import LexicalSearch
from care_accel.index.lexical.statistics import WithStatistics, WordStatistics
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
    found_by : AttachedIndex, optional
        Searches the vectors of the snapshot; by default they are scanned exactly.
    """

    def __init__(
        self, table: Table, snapshot: Snapshot, manifest: Manifest, found_by: AttachedIndex | None = None
    ) -> None:
        self.table = table
        self.snapshot = snapshot
        self.manifest = manifest
        self.found_by = found_by
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
            found = self._masks.pop(expression, None) if isinstance(expression, str) else None
        if found is None:
            left = self.table.filtered(expression, chunked=self._chunked)
            positions = self.snapshot.positions(left)
            positions = positions[positions >= 0]  # of a part of the table, it may name others
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
        if not len(vectors):
            if filter is not None:
                self.mask(filter)
            return []
        if self.snapshot.lexical is None:
            return self.rank_vectors(vectors, k, filter=filter, group=group, rescored=rescored)
        if queries is None or len(queries) != len(vectors):
            raise CareError("this collection has a lexical index; give the text of every query")
        depth = depth_of(k)
        rankings = (
            self.rank_vectors(vectors, depth, filter=filter, group=group, rescored=rescored),
            self.rank_words(queries, depth, filter=filter, group=group),
        )
        return [self._fused(both, k, group) for both in zip(*rankings, strict=True)]

    def rank_vectors(
        self,
        vectors: NDArray[np.float32],
        k: int,
        *,
        filter: str | None = None,
        group: bool = True,
        rescored: list[int] | None = None,
    ) -> list[list[Ranked]]:
        """Return the k best of each query by its vector alone; see `rank`."""
        index = self.snapshot.index
        mask, reachable = (None, index.alive) if filter is None else self.mask(filter)
        key = self._keys() if group and self._chunked else None

        def search(rows: Sequence[int], depth: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
            some = vectors if len(rows) == len(vectors) else vectors[list(rows)]
            if self.found_by is None:
                scores, positions, counts = index.search_in_float64(some, depth, subset=mask)
            else:
                # Of single vectors those beyond the best only show ties; among chunks they may be of another document.
                best = depth if key is not None else k
                scores, positions, counts = self.found_by.search_in_float64(
                    some, depth, subset=mask, promised=best
                )
            if rescored is not None:
                rescored.append(int(counts.sum()))
            return scores, positions

        return rank(search, len(vectors), k, names=self.names, group=key, reachable=reachable)

    def rank_words(
        self,
        queries: Sequence[str],
        k: int,
        *,
        filter: str | None = None,
        group: bool = True,
        statistics: WordStatistics | None = None,
    ) -> list[list[Ranked]]:
        """Return the k best of each query by its words alone; see `rank`.

        ``statistics`` are those of the queries over more documents than this version has; by default its own.
        """
        lexical = self.snapshot.lexical
        if lexical is None:
            raise CareError("this collection has no lexical index; create one with lexical=True")
        mask, reachable = (None, self.snapshot.index.alive) if filter is None else self.mask(filter)
        words: LexicalSearch = lexical
        if statistics is not None:
            words = WithStatistics(lexical, queries, statistics)

        def search(rows: Sequence[int], depth: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
            scores, positions = words.search([queries[row] for row in rows], depth, subset=mask)
            return scores.astype(np.float64), positions

        key = self._keys() if group and self._chunked else None
        return rank(search, len(queries), k, names=self.names, group=key, reachable=reachable)

    def _keys(self) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
        """Return what gives the number of the document of positions."""
        documents = self.snapshot.document_of
        return lambda positions: np.where(positions >= 0, documents[positions], -1)

    def _fused(self, rankings: Sequence[Sequence[Ranked]], k: int, group: bool) -> list[Ranked]:
        """Fuse two rankings of one query by reciprocal rank."""
        places = [[hit.position for hit in ranking] for ranking in rankings]
        names = [self.names(own) for own in places]
        position_of = {
            name: position
            for found, own in zip(names, places, strict=True)
            for name, position in zip(found, own, strict=True)
        }
        return [Ranked(position_of[name], score) for name, score in fused(names, k, group=group)]

    def names(self, positions: Sequence[int]) -> list[Name]:
        """Return document and number of the chunks at positions, by which equal scores are ordered."""
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
