"""The chunks of a collection by their position in the index, in Arrow files that are mapped into memory."""

from __future__ import annotations

import os
import shutil
import uuid
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from care_accel.collection.cutting.chunker import with_title
from care_accel.collection.storage import table as columns
from care_accel.collection.storage.rows import ID, TEXT, TITLE
from care_accel.errors import CareError

# Everything of a chunk but its vector and its hashes.
KEPT = (columns.ROW_ID, columns.UPDATED, ID, columns.CHUNK, columns.START, columns.END, TITLE, TEXT)
_CHUNK = (ID, columns.CHUNK, columns.START, columns.END)
_OWN = (columns.ROW_ID, columns.UPDATED, columns.CHUNK, columns.START, columns.END)


class StoredRows:
    """Chunks in the order of their positions in the index; it never changes, `extended` returns another.

    Parameters
    ----------
    parts : sequence of pyarrow.Table
        Consecutive chunks with the columns of `KEPT` and the user's fields.
    files : sequence of Path or None
        The file that each part is in.
    """

    def __init__(self, parts: Sequence[pa.Table] = (), files: Sequence[Path | None] = ()) -> None:
        self._parts = [part for part in parts if len(part)]
        kept = [file for part, file in zip(parts, files, strict=True) if len(part)]
        self._files: list[Path | None] = kept
        self._ends = list(accumulate(map(len, self._parts)))
        # Values of an array of one piece are read several times faster.
        self._columns = [
            {name: _one_piece(part.column(name)) for name in part.column_names} for part in self._parts
        ]
        self.row_ids = self._numbers(columns.ROW_ID)
        self.updated = self._numbers(columns.UPDATED)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _numbers(self, name: str) -> NDArray[np.uint64]:
        found = [column.to_numpy() for part in self._parts for column in part[name].chunks]
        return np.concatenate(found) if found else np.empty(0, np.uint64)

    def extended(self, rows: pa.Table) -> StoredRows:
        """Return these chunks and others behind them.

        Small last parts are joined, so that there are few.
        """
        parts, files = [*self._parts, rows], [*self._files, None]
        while len(parts) > 1 and len(parts[-2]) <= 2 * len(parts[-1]):
            joined = pa.concat_tables(parts[-2:], promote_options="default")
            parts[-2:], files[-2:] = [joined], [None]
        return StoredRows(parts, files)

    def taken(self, positions: NDArray[np.int64]) -> StoredRows:
        """Return only the chunks at some positions, which ascend."""
        kept = []
        for part, end in zip(self._parts, self._ends, strict=True):
            inside = positions[(positions >= end - len(part)) & (positions < end)]
            kept.append(part.take(pa.array(inside - (end - len(part)))))
        return StoredRows(kept, [None] * len(kept)) if kept else StoredRows()

    def all_ids(self) -> pa.ChunkedArray:
        """Return the documents' ids of all positions."""
        return pa.chunked_array([c for part in self._parts for c in part[ID].chunks], pa.string())

    def chunk_numbers(self) -> NDArray[np.int32]:
        """Return the number of each chunk in its document, int32 ``[len(self)]``."""
        found = [column.to_numpy() for part in self._parts for column in part[columns.CHUNK].chunks]
        return np.concatenate(found) if found else np.empty(0, np.int32)

    def texts(self, first: int = 0) -> Iterator[str]:
        """Yield title and text of the chunks from a position on, as they were encoded; with them are all chunks of a document."""
        parts = [
            part.slice(max(first - (end - len(part)), 0))
            for part, end in zip(self._parts, self._ends, strict=True)
            if end > first
        ]
        whole: dict[str, tuple[str, str]] = {}
        for part in parts:
            some = part.filter(pc.equal(part[columns.CHUNK], 0))
            for row in some.select([ID, TITLE, TEXT]).to_pylist():
                whole[row[ID]] = row[TITLE] or "", row[TEXT] or ""
        for part in parts:
            for row in part.select([ID, columns.START, columns.END]).to_pylist():
                title, text = whole.get(row[ID], ("", ""))
                yield with_title(title, text[row[columns.START] : row[columns.END]])

    def chunk(self, position: int) -> tuple[str, int, int, int]:
        """Return a chunk's document, its number there, and its span in the text."""
        columns_here, place = self._place(position)
        return tuple(columns_here[name][place].as_py() for name in _CHUNK)

    def document(self, position: int) -> dict[str, Any]:
        """Return the row of the document whose first chunk is at a position: id, title, text and fields."""
        columns_here, place = self._place(position)
        return {name: column[place].as_py() for name, column in columns_here.items() if name not in _OWN}

    def _place(self, position: int) -> tuple[dict[str, Any], int]:
        number = bisect_right(self._ends, position)
        return self._columns[number], position - (self._ends[number - 1] if number else 0)

    def save(self, folder: Path, *, moved_to: Path) -> list[str]:
        """Write the parts into a folder, and return the names of their files. Files that exist already are linked.

        Parameters
        ----------
        folder : Path
        moved_to : Path
            Where the folder will be: the files are linked from there the next time.
        """
        names = []
        for part, file in zip(self._parts, self._files, strict=True):
            # Named for its contents alone: where another snapshot is put in this one's place, nothing of it is linked.
            name = f"rows-{uuid.uuid4().hex}.arrow" if file is None else file.name
            if file is None or not _linked(file, folder / name):
                _write(part, folder / name)
            names.append(name)
        self._files = [moved_to / name for name in names]
        return names

    @classmethod
    def load(cls, files: Iterable[Path]) -> StoredRows:
        """Map files of `save` into memory.

        Raises
        ------
        CareError
            A file is missing or damaged.
        """
        files = list(files)
        try:
            parts = [pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in files]
        except (OSError, pa.ArrowInvalid) as cause:
            raise CareError(f"{files[0].parent}: the rows cannot be read: {cause}") from None
        return cls(parts, files)


def _one_piece(column: pa.ChunkedArray) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else column


def _write(part: pa.Table, file: Path) -> None:
    descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as raw, pa.ipc.new_file(raw, part.schema) as stream:
        stream.write_table(part.combine_chunks())


def _linked(source: Path, target: Path) -> bool:
    """Link a file, or copy it to another device; return False if it is gone."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        return False
    except OSError:
        try:
            shutil.copyfile(source, target)
        except OSError:
            return False
        target.chmod(0o600)
    return True
