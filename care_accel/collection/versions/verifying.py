"""Checks that a collection holds every document once and whole, and that its index is the table's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.collection.cutting.chunker import Chunker
from care_accel.collection.storage import table as columns
from care_accel.collection.storage.manifest import Manifest
from care_accel.collection.storage.rows import ID, TEXT, TITLE, Document
from care_accel.collection.storage.schema import vectors_of
from care_accel.collection.storage.table import Table
from care_accel.collection.versions.snapshot import Snapshot
from care_accel.collection.versions.stored_rows import StoredRows
from care_accel.encoding.base import BaseDualEncoder

_MOST_PROBLEMS = 20


@dataclass
class Verified:
    """What a check found.

    Attributes
    ----------
    documents, chunks : int
    encoded : int
        Documents that were encoded again.
    problems : list of str
        Empty if all is well; at most 20 are listed.
    """

    documents: int = 0
    chunks: int = 0
    encoded: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def add(self, problem: str) -> None:
        """Note a problem."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)


def verify(
    table: Table, manifest: Manifest, snapshot: Snapshot, model: BaseDualEncoder | None, encode: int
) -> Verified:
    """Check a version of a collection; see `Collection.verify`."""
    found = Verified()
    chunking = (
        "whole" if manifest.chunk_tokens is None else f"{manifest.chunk_tokens}/{manifest.chunk_overlap}"
    )
    chunks: dict[str, list[int]] = {}
    lengths: dict[str, int] = {}
    ends: dict[str, int] = {}
    names = [columns.ROW_ID, ID, columns.CHUNK, columns.START, columns.END, TITLE, TEXT, columns.CONTENT_HASH]
    vectors = snapshot.index.vectors
    indexed = 0
    for batch in table.batches([*names, columns.VECTOR]):
        stored = vectors_of(batch[columns.VECTOR])
        finite: NDArray[np.bool_] = np.all(np.isfinite(stored), axis=1)
        positions = snapshot.positions(batch[columns.ROW_ID].to_numpy())
        for place, row in enumerate(batch.select(names[1:]).to_pylist()):
            identifier, number = row[ID], row[columns.CHUNK]
            chunks.setdefault(identifier, []).append(number)
            ends[identifier] = max(ends.get(identifier, 0), row[columns.END])
            if number == 0:
                if row[TEXT] is None:
                    found.add(f"document {identifier!r}: its text is missing")
                    continue
                document = Document(identifier, row[TITLE] or "", row[TEXT], {})
                lengths[identifier] = len(row[TEXT])
                if document.content_hash(chunking) != row[columns.CONTENT_HASH]:
                    found.add(f"document {identifier!r}: title or text differ from what was encoded")
            if not finite[place]:
                found.add(f"document {identifier!r}, chunk {number}: its vector is not finite")
            position = int(positions[place])
            if position < 0 or not np.array_equal(vectors[position], stored[place]):
                found.add(f"document {identifier!r}, chunk {number}: the index does not have its vector")
            elif not _has_row(snapshot.rows, position, row):
                found.add(f"document {identifier!r}, chunk {number}: the index has another row")
            indexed += position >= 0
    for identifier, numbers in chunks.items():
        if sorted(numbers) != list(range(len(numbers))):
            found.add(
                f"document {identifier!r}: its chunks are {sorted(numbers)[:10]}, not 0 to {len(numbers) - 1}"
            )
        elif ends[identifier] > lengths.get(identifier, 0):
            found.add(f"document {identifier!r}: a chunk ends behind its text")
    if snapshot.index.alive != indexed:
        found.add(f"the index has {snapshot.index.alive} chunks, the table {indexed}")
    found.documents, found.chunks = len(chunks), sum(map(len, chunks.values()))
    if model is not None and chunks:
        _encode_again(found, table, manifest, model, list(chunks), encode)
    return found


def _has_row(rows: StoredRows, position: int, row: dict[str, Any]) -> bool:
    """Return whether the index has a chunk's place and, in the first one, title and text."""
    if rows.chunk(position) != (row[ID], row[columns.CHUNK], row[columns.START], row[columns.END]):
        return False
    if row[columns.CHUNK]:
        return True
    document = rows.document(position)
    return (document[TITLE], document[TEXT]) == (row[TITLE], row[TEXT])


def _encode_again(
    found: Verified, table: Table, manifest: Manifest, model: BaseDualEncoder, ids: list[str], count: int
) -> None:
    chosen = np.random.default_rng().choice(len(ids), size=min(count, len(ids)), replace=False)
    encoder = model.encoder("document")
    chunker = Chunker(manifest, encoder)
    names = [ID, columns.CHUNK, TITLE, TEXT, columns.VECTOR]
    rows = table.rows_of([ids[i] for i in chosen], names).sort_by(
        [(ID, "ascending"), (columns.CHUNK, "ascending")]
    )
    stored = vectors_of(rows[columns.VECTOR])
    start = 0
    for row in rows.select(names[:-1]).to_pylist():
        if row[columns.CHUNK]:
            continue
        _, texts = chunker.cut([row[TITLE]], [row[TEXT]])
        again = encoder.encode(texts)
        same = stored[start : start + len(texts)]
        start += len(texts)
        if again.shape != same.shape or not np.allclose(again, same, atol=1e-4):
            found.add(f"document {row[ID]!r}: encoding it again gives other vectors")
        found.encoded += 1
