"""A part of a collection's table: as many consecutive rows as each of several shards gets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from care_accel.collection.storage.lance_errors import lance_errors
from care_accel.collection.storage.rows import ID, among
from care_accel.collection.storage.table import CHUNK, FIRST_CHUNK, ROW_ID, Table
from care_accel.errors import CareError

# Documents that are named in one condition.
_NAMED_AT_ONCE = 1000


class _Range(NamedTuple):
    """Consecutive rows of a fragment, deleted ones not counted."""

    fragment: Any
    offset: int
    limit: int


class TablePart(Table):
    """One of several parts of a table's version, as equal as they can be; together they are the table.

    The parts depend on the version alone: each process finds its own. A fragment may be cut, and so a document in chunks may
    be: then the part has its first chunk as well, with title, text and fields, as a guest that is not searched.

    Parameters
    ----------
    table : Table
    number : int
        From 0.
    of : int
        Number of parts.

    Raises
    ------
    CareError
        There is no such part.
    """

    def __init__(self, table: Table, number: int, of: int) -> None:
        if not 0 <= number < of:
            raise CareError(f"there is no part {number} of {of}; parts are counted from 0")
        super().__init__(table.uri, table.dataset, table.address)
        self._number, self._of = number, of

    @cached_property
    def _ranges(self) -> list[_Range]:
        with lance_errors(self.uri):
            fragments = self.dataset.get_fragments()
            counts = [int(fragment.count_rows()) for fragment in fragments]
        total = sum(counts)
        first, last = total * self._number // self._of, total * (self._number + 1) // self._of
        ranges = []
        begin = 0
        for fragment, count in zip(fragments, counts, strict=True):
            start, end = max(first - begin, 0), min(last - begin, count)
            if start < end:
                ranges.append(_Range(fragment, start, end - start))
            begin += count
        return ranges

    @cached_property
    def _heads(self) -> tuple[int, list[str]]:
        """Documents that begin here, counted, and those of which other chunks are here."""
        numbers = [batch[CHUNK].to_numpy() for batch in self._own([CHUNK])]
        if not any(some.any() for some in numbers):  # every document is whole
            return sum(map(len, numbers)), []
        found = pa.Table.from_batches([*self._own([ID, CHUNK])])
        first = found.filter(pc.equal(found[CHUNK], 0))[ID]
        every = pc.unique(found[ID])
        missing = every.filter(pc.invert(pc.is_in(every, first.combine_chunks())))
        return len(first), missing.to_pylist()

    @property
    def documents(self) -> int:
        """Number of documents whose first chunk is here; those of all parts together are all documents."""
        return self._heads[0]

    def guests(self) -> NDArray[np.uint64]:
        """Return the row ids of first chunks that are of other parts."""
        found = [batch[ROW_ID].to_numpy() for batch in self._guests([ROW_ID], None)]
        return np.concatenate(found) if found else np.empty(0, np.uint64)

    def read(self, columns: Sequence[str], condition: str | None = None) -> pa.Table:
        """Read columns of the part's rows and guests; see `batches`."""
        return pa.Table.from_batches([*self.batches(columns, condition)] or [self._nothing(columns)])

    def batches(
        self, columns: Sequence[str], condition: str | None = None, *, batch_size: int = 4096
    ) -> Iterator[pa.RecordBatch]:
        """Read columns of the part's rows and guests batch by batch.

        Under a condition, rows of the same fragments that are of other parts come too.
        """
        yield from self._own(columns, condition, batch_size)
        yield from self._guests(columns, condition)

    def _own(
        self, columns: Sequence[str], condition: str | None = None, batch_size: int = 4096
    ) -> Iterator[pa.RecordBatch]:
        with lance_errors(self.uri):
            for fragment, offset, limit in self._ranges:
                # Lance counts an offset in the rows that a condition leaves.
                place = {} if condition else {"offset": offset, "limit": limit}
                yield from self.dataset.scanner(
                    columns=list(columns),
                    filter=condition,
                    batch_size=batch_size,
                    fragments=[fragment],
                    scan_in_order=True,
                    **place,
                ).to_batches()

    def _guests(self, columns: Sequence[str], condition: str | None) -> Iterator[pa.RecordBatch]:
        also = f" AND ({condition})" if condition else ""
        with lance_errors(self.uri):
            for named in self._named_guests():
                yield from self.dataset.scanner(columns=list(columns), filter=f"{named}{also}").to_batches()

    def _named_guests(self) -> Iterator[str]:
        """Yield conditions that guests are under."""
        missing = self._heads[1]
        for start in range(0, len(missing), _NAMED_AT_ONCE):
            yield f"{among(missing[start : start + _NAMED_AT_ONCE])} AND {FIRST_CHUNK}"

    def _row_ids(self, condition: str) -> NDArray[np.uint64]:
        if not self._ranges:  # a mistake in the condition is told all the same
            return super()._row_ids(f"({condition}) AND false")
        fragments = [place.fragment for place in self._ranges]
        found = [self.dataset.scanner(columns=[ROW_ID], filter=condition, fragments=fragments).to_table()]
        found += [
            self.dataset.to_table(columns=[ROW_ID], filter=f"{named} AND ({condition})")
            for named in self._named_guests()
        ]
        return pa.concat_tables(found)[ROW_ID].to_numpy()

    def _nothing(self, columns: Sequence[str]) -> pa.RecordBatch:
        with lance_errors(self.uri):
            schema = self.dataset.to_table(columns=list(columns), filter="false").schema
        return pa.RecordBatch.from_pylist([], schema)
