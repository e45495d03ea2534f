"""Documents to rows of the table: what is new or changed is encoded, what has only other fields keeps its vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from care_accel.collection.cutting.chunker import Chunker, Span
from care_accel.collection.storage import table as columns
from care_accel.collection.storage.manifest import Manifest
from care_accel.collection.storage.rows import ID, TEXT, TITLE, Document, FieldTypes
from care_accel.collection.storage.schema import vector_column, vectors_of
from care_accel.collection.storage.table import Table
from care_accel.encoding.base import BaseEncoder


@dataclass
class Cost:
    """What encoding some documents took.

    Attributes
    ----------
    chunks, tokens, truncated : int
        Chunks that were encoded, their tokens with prompts, and how many were cut at the model's limit.
    encode_seconds : float
    """

    chunks: int = 0
    tokens: int = 0
    truncated: int = 0
    encode_seconds: float = 0.0


@dataclass
class Made:
    """The rows of some documents, compared with what the table has of them.

    Attributes
    ----------
    tables : list of pyarrow.Table
        Rows of new and changed documents, one a chunk.
    ids : list of str
        The documents of ``tables``.
    same : list of Document
        Documents that the table has as they are.
    new, changed : int
        How many of ``ids`` the table does not have, and has in another form.
    cost : Cost
    """

    tables: list[pa.Table] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    same: list[Document] = field(default_factory=list)
    new: int = 0
    changed: int = 0
    cost: Cost = field(default_factory=Cost)


class RowMaker:
    """Makes the rows of documents.

    Parameters
    ----------
    manifest : Manifest
    encoder : BaseEncoder
        The document encoder.
    types : FieldTypes
        Types of the fields that the rows get.
    """

    def __init__(self, manifest: Manifest, encoder: BaseEncoder, types: FieldTypes) -> None:
        self.manifest = manifest
        self.encoder = encoder
        self.types = types
        self.chunker = Chunker(manifest, encoder)

    def make(self, stored: Stored, some: Sequence[Document]) -> Made:
        """Encode what is new or changed.

        Parameters
        ----------
        stored : Stored
            What the table has of them.
        some : sequence of Document
            Each id once.
        """
        made = Made()
        chunking = self.chunker.name
        kept: list[Document] = []
        for document in some:
            unchanged = stored.row_hash(document.id) == document.row_hash(chunking)
            (made.same if unchanged else kept).append(document)
        moved = [d for d in kept if stored.content_hash(d.id) == d.content_hash(chunking)]
        encoded = [d for d in kept if stored.content_hash(d.id) != d.content_hash(chunking)]
        if moved:
            made.tables.append(self._as_table(moved, *stored.chunks(moved)))
        if encoded:
            made.tables.append(self._as_table(encoded, *self._encoded(encoded, made.cost)))
        made.ids = [d.id for d in (*moved, *encoded)]
        made.changed = sum(stored.row_hash(d.id) is not None for d in kept)
        made.new = len(kept) - made.changed
        return made

    def _encoded(self, some: Sequence[Document], cost: Cost) -> tuple[list[list[Span]], NDArray[np.float32]]:
        spans, texts = self.chunker.cut([d.title for d in some], [d.text for d in some])
        counts = getattr(self.encoder, "counts", None)
        before = (counts.truncated, counts.tokens) if counts else (0, 0)
        begun = perf_counter()
        vectors = self.encoder.encode(texts)
        cost.encode_seconds += perf_counter() - begun
        cost.chunks += len(texts)
        if counts:
            cost.truncated += counts.truncated - before[0]
            cost.tokens += counts.tokens - before[1]
        return spans, vectors

    def _as_table(
        self, some: Sequence[Document], spans: Sequence[Sequence[Span]], vectors: NDArray[np.float32]
    ) -> pa.Table:
        """Return the rows of documents: one a chunk; title, text and fields in the first."""
        first = [number == 0 for chunks in spans for number in range(len(chunks))]
        owner = [d for d, chunks in zip(some, spans, strict=True) for _ in chunks]
        all_spans = [span for chunks in spans for span in chunks]
        chunking = self.chunker.name
        made: dict[str, pa.Array] = {
            ID: pa.array([d.id for d in owner], pa.string()),
            columns.CHUNK: pa.array([n for chunks in spans for n in range(len(chunks))], pa.int32()),
            columns.START: pa.array([span.start for span in all_spans], pa.int64()),
            columns.END: pa.array([span.end for span in all_spans], pa.int64()),
            columns.VECTOR: vector_column(vectors, self.manifest.width),
        }
        of_document: dict[str, tuple[pa.DataType, Callable[[Document], Any]]] = {
            TITLE: (pa.string(), lambda d: d.title),
            TEXT: (pa.string(), lambda d: d.text),
            columns.CONTENT_HASH: (pa.binary(), lambda d: d.content_hash(chunking)),
            columns.ROW_HASH: (pa.binary(), lambda d: d.row_hash(chunking)),
        }
        for name, kind in self.types.known.items():
            of_document[name] = (kind, lambda d, name=name: d.fields.get(name))  # type: ignore[misc]
        for name, (kind, value) in of_document.items():
            values = [value(d) if is_first else None for d, is_first in zip(owner, first, strict=True)]
            made[name] = pa.array(values, kind)
        return pa.table(made)


class Stored:
    """What the table has of some documents."""

    def __init__(self, table: Table, ids: Sequence[str]) -> None:
        self._table = table
        self._hashes: dict[str, tuple[bytes, bytes]] = {}
        names = [ID, columns.CHUNK, columns.CONTENT_HASH, columns.ROW_HASH]
        found = table.rows_of(ids, names)
        for row in found.to_pylist():
            if row[columns.CHUNK] == 0:
                self._hashes[row[ID]] = (row[columns.CONTENT_HASH], row[columns.ROW_HASH])

    def content_hash(self, identifier: str) -> bytes | None:
        return self._hashes.get(identifier, (None, None))[0]

    def row_hash(self, identifier: str) -> bytes | None:
        return self._hashes.get(identifier, (None, None))[1]

    def chunks(self, some: Sequence[Document]) -> tuple[list[list[Span]], NDArray[np.float32]]:
        """Return spans and vectors of documents whose content has not changed."""
        names = [ID, columns.CHUNK, columns.START, columns.END, columns.VECTOR]
        found = self._table.rows_of([d.id for d in some], names).sort_by(
            [(ID, "ascending"), (columns.CHUNK, "ascending")]
        )
        places: dict[str, list[int]] = {}
        for place, identifier in enumerate(found[ID].to_pylist()):
            places.setdefault(identifier, []).append(place)
        ends = found[columns.END].to_pylist()
        spans = [
            [
                Span(start, ends[place])
                for place, start in zip(places[d.id], _starts(found, places[d.id]), strict=True)
            ]
            for d in some
        ]
        order = [place for d in some for place in places[d.id]]
        return spans, vectors_of(found[columns.VECTOR])[order]


def _starts(found: pa.Table, places: Sequence[int]) -> list[int]:
    return [found[columns.START][place].as_py() for place in places]


def with_fields(part: pa.Table, fields: dict[str, pa.DataType]) -> pa.Table:
    """Return rows with all fields of the table, in one order of columns; those that they lack are null."""
    for name, kind in fields.items():
        if name not in part.column_names:
            part = part.append_column(name, pa.nulls(len(part), kind))
    return part.select(sorted(part.column_names))
