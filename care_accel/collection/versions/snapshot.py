"""One version of a collection, ready to be searched: an exact index, and the chunks at its positions."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from care_accel.collection.storage import table as columns
from care_accel.collection.storage.manifest import Manifest
from care_accel.collection.storage.schema import vectors_of
from care_accel.collection.storage.table import Table
from care_accel.collection.versions.stored_rows import KEPT, StoredRows
from care_accel.index import ExactIndex
from care_accel.index.lexical.lexical_index import LexicalIndex

_NOWHERE = -1
# Of the changed rows: up to so many versions are named in a condition, which reads less than the whole table.
_NAMED_VERSIONS = 200
# Removed vectors are dropped when they are more than this share.
_MOST_REMOVED = 0.5


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A version of a collection. It never changes: searches that have begun end on it.

    Attributes
    ----------
    version : int
    index : ExactIndex
        A position is a chunk, as it is or as it was.
    rows : StoredRows
        The chunk at each position.
    lexical : LexicalIndex or None
        The words of the chunk at each position.
    read : int
        Chunks that were read from the table to make it.
    commit : str or None
        `Table.commit` of the version: a table that is restored from a backup makes other versions of the same numbers.
    """

    version: int
    index: ExactIndex
    rows: StoredRows
    lexical: LexicalIndex | None = None
    read: int = 0
    commit: str | None = None

    @classmethod
    def empty(cls, manifest: Manifest, **options: Any) -> Snapshot:
        """Return a snapshot of no documents, before the first version."""
        index = ExactIndex(
            manifest.width, encoder_revision=manifest.revision, order=manifest.order, **options
        )
        return cls(0, index, StoredRows(), LexicalIndex() if manifest.lexical else None)

    @cached_property
    def alive(self) -> NDArray[np.bool_]:
        """Which positions can be found, bool ``[len(index)]``."""
        return ~self.index.removed

    @cached_property
    def position_of(self) -> NDArray[np.int64]:
        """Position of each row id, int64 ``[largest row id + 1]``; -1 for none."""
        alive = np.flatnonzero(self.alive)
        ids = self.rows.row_ids[alive].astype(np.int64)
        found = np.full(int(ids.max()) + 1 if len(ids) else 0, _NOWHERE, np.int64)
        found[ids] = alive
        return found

    def positions(self, row_ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the positions of row ids, -1 for those that are not in this version."""
        ids = row_ids.astype(np.int64)
        known = ids < len(self.position_of)
        found = np.full(len(ids), _NOWHERE, np.int64)
        found[known] = self.position_of[ids[known]]
        return found

    @cached_property
    def document_of(self) -> NDArray[np.int64]:
        """A number of the document of each position, int64 ``[len(index)]``; equal for chunks of one document."""
        if not len(self.rows):
            return np.empty(0, np.int64)
        encoded = self.rows.all_ids().combine_chunks().dictionary_encode()
        return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)

    @cached_property
    def first_chunk_of(self) -> NDArray[np.int64]:
        """Position of the first chunk of each document in `document_of`, int64; -1 for one that is gone."""
        documents = self.document_of
        found = np.full(int(documents.max()) + 1 if len(documents) else 0, _NOWHERE, np.int64)
        first = np.flatnonzero(self.alive & (self.rows.chunk_numbers() == 0))
        found[documents[first]] = first
        return found

    def at(self, table: Table) -> Snapshot:
        """Return the snapshot of another version, newer or older: only what differs is read.

        Parameters
        ----------
        table : Table
            At that version.
        """
        if table.version == self.version:
            return self
        now = table.read([columns.ROW_ID, columns.UPDATED])
        row_ids, updated = now[columns.ROW_ID].to_numpy(), now[columns.UPDATED].to_numpy()
        positions = self.positions(row_ids)
        kept = positions >= 0
        kept[kept] = self.rows.updated[positions[kept]] == updated[kept]
        stay = np.zeros(len(self.index), dtype=bool)
        stay[positions[kept]] = True
        gone = np.flatnonzero(self.alive & ~stay)
        alive = int(stay.sum()) + int((~kept).sum())
        start: Snapshot = self
        if len(gone) + int((~self.alive).sum()) > _MOST_REMOVED * max(len(self.index), 1):
            start, gone = self._compacted(stay), np.empty(0, np.int64)
        index = copy.copy(start.index)
        if len(gone):
            index.remove(gone)
        rows, lexical = start.rows, start.lexical
        before = len(rows)
        read = 0
        for batch in _changed(table, row_ids[~kept], updated[~kept], all_rows=int((~kept).sum()) == alive):
            index.add(vectors_of(batch[columns.VECTOR]))
            rows = rows.extended(batch.drop_columns([columns.VECTOR]))
            read += len(batch)
        if lexical is not None:
            lexical = lexical.with_removed(gone).with_added(rows.texts(before))
        return Snapshot(table.version, index, rows, lexical, read, table.commit(table.version))

    def compacted(self) -> Snapshot:
        """Return this version without what is gone, in one part; itself if nothing is gone."""
        return self if self.alive.all() else self._compacted(self.alive)

    def _compacted(self, stay: NDArray[np.bool_]) -> Snapshot:
        """Return a snapshot with only some positions."""
        index = copy.copy(self.index)
        if gone := np.flatnonzero(self.alive & ~stay).tolist():
            index.remove(gone)
        old = index.compact()
        lexical = (
            None if self.lexical is None else self.lexical.with_removed(np.flatnonzero(~stay)).taken(old)
        )
        return Snapshot(self.version, index, self.rows.taken(old), lexical, commit=self.commit)


def _changed(
    table: Table, row_ids: NDArray[np.uint64], updated: NDArray[np.uint64], *, all_rows: bool
) -> Iterable[pa.Table]:
    """Yield the chunks with some row ids, in pieces of many rows."""
    if not len(row_ids):
        return
    names = [*KEPT, *table.fields, columns.VECTOR]
    versions = np.unique(updated)
    condition = None
    if not all_rows and len(versions) <= _NAMED_VERSIONS:
        condition = f"{columns.UPDATED} IN ({','.join(map(str, versions.tolist()))})"
    wanted = np.sort(row_ids)
    piece: list[pa.RecordBatch] = []
    waiting = 0
    for batch in table.batches(names, condition):
        some = np.isin(batch[columns.ROW_ID].to_numpy(), wanted, assume_unique=True)
        if not some.all():
            batch = batch.filter(pa.array(some))
        piece.append(batch)
        waiting += len(batch)
        if waiting >= 65_536:
            yield pa.Table.from_batches(piece).combine_chunks()
            piece, waiting = [], 0
    if waiting:
        yield pa.Table.from_batches(piece).combine_chunks()
