"""Pieces of sources with fixed positions, which several machines read: lines, row groups, rows, or whole files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from care_accel.collection.sources.columns import Parquet, Saved
from care_accel.collection.sources.find import File, Source, Table
from care_accel.collection.sources.rows import Found, Selection
from care_accel.collection.sources.streams import Counted, Opened
from care_accel.collection.sources.text_files import read_json_lines
from care_accel.errors import CareError

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["lines", "groups", "rows", "file"]

# Text in gzip or zstd is that many times as long, about; only the size of parts depends on it.
_COMPRESSION = 4
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a source.

    Attributes
    ----------
    path : str
    kind : {"lines", "groups", "rows", "file"}
        What ``start`` and ``stop`` count: bytes of whole lines, row groups of Parquet, rows of a saved data set; a file
        that can only be read from its begin is one piece.
    start, stop : int
    before : int
        Rows, or lines, of the source before this piece, for the places in messages.
    size : int
        Bytes of text, about.
    stamp : tuple of int
        Size and time of change of the source, in bytes and nanoseconds: a source that changes is refused.
    """

    path: str
    kind: Kind
    start: int
    stop: int
    before: int
    size: int
    stamp: tuple[int, int]

    def describe(self) -> str:
        """Return the piece for a message."""
        if self.kind == "file":
            return self.path
        unit = {"lines": "bytes", "groups": "row groups", "rows": "rows"}[self.kind]
        behind = f" (behind line {self.before:,})" if self.kind == "lines" else ""
        return f"{self.path}, {unit} {self.start:,} to {self.stop:,}{behind}"


def text_size(source: Source, selection: Selection) -> int:
    """Return the bytes of text in a source, about.

    Raises
    ------
    CareError
        It cannot be read by several machines.
    """
    return sum(size for _, _, size in _units(source, selection))


def cut(source: Source, selection: Selection, target: int) -> Iterator[Piece]:
    """Yield the pieces of a source, in order.

    Parameters
    ----------
    source : Source
    selection : Selection
        Its columns count for the size of Parquet.
    target : int
        Bytes of a piece, at least one row group or line.

    Raises
    ------
    CareError
        It cannot be read by several machines.
    """
    if isinstance(source, File) and source.file is not None and _is_lines(source.file):
        yield from _cut_lines(source.file, target)
        return
    path, kind = _kind(source)
    stamp = stamp_of(path)
    start = stop = before = rows = size = 0
    for count, weight, of_unit in _units(source, selection):
        stop, rows, size = stop + count, rows + weight, size + of_unit
        if size >= target:
            yield Piece(path, kind, start, stop, before, size, stamp)
            start, before, rows, size = stop, before + rows, 0, 0
    if stop > start:
        yield Piece(path, kind, start, stop, before, size, stamp)


def open_piece(piece: Piece) -> Source:
    """Open a piece.

    Raises
    ------
    CareError
        Its source is gone or has changed.
    """
    try:
        stamp = stamp_of(piece.path)
    except CareError as gone:
        raise CareError(f"{gone}; every worker needs the sources at the same paths") from None
    if stamp != piece.stamp:
        raise CareError(f"{piece.path}: has changed since the plan was made; run again with --new-plan")
    return _Ranged(piece)


def stamp_of(path: str) -> tuple[int, int]:
    """Return size and time of change of a file, or of a folder's files together."""
    try:
        if os.path.isdir(path):
            found = [entry.stat() for entry in os.scandir(path) if entry.is_file()]
        else:
            found = [os.stat(path)]
    except OSError as cause:
        raise CareError(f"{path}: cannot be read: {cause.strerror}") from None
    return sum(stat.st_size for stat in found), max((stat.st_mtime_ns for stat in found), default=0)


def _is_lines(file: Path) -> bool:
    opened = Opened(file)
    opened.close()
    return opened.format == "jsonl" and not opened.compressed


def _kind(source: Source) -> tuple[str, Kind]:
    if isinstance(source, Table) and isinstance(source.table, Saved):
        return os.path.abspath(source.table.name), "rows"
    if isinstance(source, File) and source.file is not None and source.size is not None:
        opened = Opened(source.file)
        opened.close()
        return os.path.abspath(source.file), "groups" if opened.format == "parquet" else "file"
    name = source.table.name if isinstance(source, Table) else "a pipe"
    raise CareError(f"{name} cannot be read by several machines; save it to a shared folder first")


def _units(source: Source, selection: Selection) -> Iterator[tuple[int, int, int]]:
    """Yield what a source can be cut into: units, rows and bytes of each."""
    path, kind = _kind(source)
    if kind == "groups":
        yield from Parquet(Path(path)).groups(selection)
    elif kind == "rows":
        saved = cast(Saved, cast(Table, source).table)
        for count, size in saved.batch_sizes(selection):
            yield count, count, size
    else:
        opened = Opened(Path(path))
        opened.close()
        size = stamp_of(path)[0] * (_COMPRESSION if opened.compressed else 1)
        yield 1, 0, size


def _cut_lines(file: Path, target: int) -> Iterator[Piece]:
    path = os.path.abspath(file)
    stamp = stamp_of(path)
    before = start = 0
    with open(path, "rb") as stream:
        while start < stamp[0]:
            stream.seek(start + target - 1)
            stream.readline()
            stop = min(stream.tell(), stamp[0])
            yield Piece(path, "lines", start, stop, before, stop - start, stamp)
            stream.seek(start)
            left = stop - start
            while left and (block := stream.read(min(_BLOCK, left))):
                before += block.count(b"\n")
                left -= len(block)
            start = stop


class _Ranged(Source):
    """A piece as a source."""

    def __init__(self, piece: Piece) -> None:
        self.size: int = piece.size
        self._piece = piece

    def rows(self, encoding: str, selection: Selection) -> Iterator[Found]:
        """Yield the rows of the piece."""
        piece = self._piece
        if piece.kind == "file":
            yield from File(Path(piece.path), part=True).rows(encoding, selection)
        elif piece.kind == "lines":
            opened = _Lines(piece)
            try:
                yield from read_json_lines(opened, encoding, selection, before=piece.before)
            finally:
                opened.close()
        else:
            table: Parquet | Saved = _Groups(piece) if piece.kind == "groups" else _Rows(piece)
            table.rows = piece.before
            yield from table.read(selection)

    def done(self) -> int:
        """Return no progress: that of pieces is counted by whole parts."""
        return 0


class _Lines(Opened):
    """Some lines of a file, as an open one."""

    def __init__(self, piece: Piece) -> None:
        self.name, self.format, self.compressed = piece.path, "jsonl", False
        try:
            raw: Any = open(piece.path, "rb", buffering=0)  # noqa: SIM115  # closed by `close`
        except OSError as cause:
            raise CareError(f"{piece.path}: cannot be read: {cause.strerror}") from None
        raw.seek(piece.start)
        self._raw = Counted(raw, close=True, most=piece.stop - piece.start)
        self.stream = self._raw.buffered()


class _Groups(Parquet):
    def __init__(self, piece: Piece) -> None:
        super().__init__(Path(piece.path))
        self._groups = range(piece.start, piece.stop)

    def batches(self, columns: list[str]) -> Iterable[pa.RecordBatch]:
        """Return the batches of the piece's row groups."""
        return self.some_batches(columns, list(self._groups))


class _Rows(Saved):
    def __init__(self, piece: Piece) -> None:
        super().__init__(Path(piece.path))
        self._range = piece.start, piece.stop

    def batches(self, columns: list[str]) -> Iterable[pa.RecordBatch]:
        """Return the batches of the piece's rows."""
        return self.some_batches(columns, *self._range)
