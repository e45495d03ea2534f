"""Opens files and standard input: recognises by content what they are, decompresses, counts bytes, and numbers lines."""

from __future__ import annotations

import gzip
import io
import os
import stat
import sys
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from care_accel.collection.sources.rows import BadRow
from care_accel.errors import CareError

Format = Literal["jsonl", "csv", "parquet"]

STDIN = "standard input"
_BOM = b"\xef\xbb\xbf"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_HEAD = 1 << 12
_BUFFER = 1 << 16
_LONGEST_LINE = 1 << 26
# What is not read, by its first bytes, and what to do.
_OTHERS = (
    (b"\xff\xfe", "UTF-16; convert it (iconv -f UTF-16 -t UTF-8)"),
    (b"\xfe\xff", "UTF-16; convert it (iconv -f UTF-16 -t UTF-8)"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet; unpack it, or save it as CSV"),
    (b"BZh", "compressed with bzip2; decompress it, or use gzip or zstd"),
    (b"\xfd7zXZ", "compressed with xz; decompress it, or use gzip or zstd"),
    (b"ARROW1", "an Arrow file; convert it to Parquet"),
    (b"[", "one JSON list; write an object a line (jq -c '.[]')"),
)
_READS = "what is read is JSON lines, CSV and TSV with a header, and Parquet"
# Encodings that are read beside UTF-8; the older Chinese ones are parts of GB18030.
_ENCODINGS = {"utf-8": "utf-8", "utf8": "utf-8", "big5": "big5hkscs"} | dict.fromkeys(
    ("gb18030", "gbk", "gb2312"), "gb18030"
)


def known_encoding(name: str) -> str:
    """Return Python's name of an encoding.

    Raises
    ------
    CareError
        It is not one of those that are read.
    """
    found = _ENCODINGS.get(name.lower())
    if found is None:
        raise CareError(f"the encoding {name!r} is not known; use one of {', '.join(sorted(_ENCODINGS))}")
    return found


class Opened:
    """An open file or standard input, decompressed.

    Attributes
    ----------
    name : str
        For messages.
    format : str
        "jsonl", "csv" or "parquet"; None for an empty file.
    compressed : bool
    stream : io.BufferedReader
        From the first byte on.
    """

    def __init__(self, file: Path | None) -> None:
        """Open a file, or standard input for None.

        Raises
        ------
        CareError
            It cannot be read, or is nothing that is read here.
        """
        self.name = STDIN if file is None else str(file)
        self._raw = Counted(sys.stdin.buffer if file is None else _open(file), close=file is not None)
        try:
            self.format, self.stream = self._recognised()
        except BaseException:
            self._raw.close()
            raise

    @property
    def consumed(self) -> int:
        """Bytes read of the file, as it is on disk."""
        return self._raw.count

    def close(self) -> None:
        """Close the file; standard input stays open."""
        self._raw.close()

    def _recognised(self) -> tuple[Format | None, io.BufferedReader]:
        try:
            head, stream = _with_head(self._raw, 4)
            self.compressed = head == _ZSTD or head.startswith(_GZIP)
            if self.compressed:
                stream = _zstd(stream) if head == _ZSTD else cast(Any, gzip.GzipFile(fileobj=stream))
            head, stream = _with_head(stream, _HEAD)
        except FAILURES as cause:
            raise CareError(f"{self.name}: cannot be read: {cause}") from None
        return _format(head, self.name), stream


# What reading raises: of the system, of gzip, and of zstd.
FAILURES = (OSError, EOFError, zlib.error)


def is_plain_file(file: Path) -> bool:
    """Return whether a file can be opened more than once: it is no pipe."""
    return stat.S_ISREG(file.stat().st_mode)


def _open(file: Path) -> BinaryIO:
    try:
        return cast(BinaryIO, open(file, "rb", buffering=0))
    except OSError as cause:
        raise CareError(f"{file}: cannot be read: {os.strerror(cause.errno or 0)}") from None


def _format(head: bytes, name: str) -> Format | None:
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.removeprefix(_BOM).lstrip()
    for start, what in _OTHERS:
        if text.startswith(start):
            raise CareError(f"{name}: this is {what}")
    if b"\0" in head:
        raise CareError(f"{name}: this is no text: it has zero bytes; {_READS}")
    if not text:
        return None
    return "jsonl" if text.startswith(b"{") else "csv"


def _zstd(stream: BinaryIO) -> io.BufferedReader:
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd"))


def _with_head(stream: io.RawIOBase | io.BufferedIOBase, size: int) -> tuple[bytes, io.BufferedReader]:
    """Return the first bytes of a stream, and the stream from its first byte on: pipes cannot go back."""
    head = b""
    while len(head) < size and (more := stream.read(size - len(head))):
        head += more
    return head, io.BufferedReader(_Replayed(head, stream), _BUFFER)


class _Replayed(io.RawIOBase):
    def __init__(self, head: bytes, rest: io.RawIOBase | io.BufferedIOBase) -> None:
        self._head, self._rest = memoryview(head), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._head:
            size = min(len(buffer), len(self._head))
            buffer[:size], self._head = self._head[:size], self._head[size:]
            return size
        # Of a pipe, what is there: not all that would fit.
        read = getattr(self._rest, "readinto1", None) or self._rest.readinto
        return read(buffer) or 0


class Counted(io.RawIOBase):
    """A stream that counts the bytes that are read of it, and ends after ``most`` of them."""

    def __init__(self, raw: BinaryIO, *, close: bool, most: int | None = None) -> None:
        self._inner, self._close, self._most = raw, close, most
        self.count = 0

    def buffered(self) -> io.BufferedReader:
        """Return a buffered reader of it."""
        return io.BufferedReader(self, _BUFFER)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = getattr(self._inner, "readinto1", None) or cast(Any, self._inner).readinto
        if self._most is not None:
            buffer = memoryview(buffer)[: self._most - self.count]
        size = read(buffer) or 0
        self.count += size
        return int(size)

    def close(self) -> None:
        if self._close:
            self._inner.close()
        super().close()


class Lines:
    """The lines of a stream, decoded, with their ends; ``number`` is that of the last one, from 1.

    An iterator that goes on after it has raised `BadRow`, for a line that is not text of the encoding or is longer than
    64 MiB. A byte order mark is removed.
    """

    def __init__(self, opened: Opened, encoding: str) -> None:
        self.number = 0
        self._opened, self._encoding = opened, encoding

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        try:
            raw = self._opened.stream.readline(_LONGEST_LINE)
            if not raw:
                raise StopIteration
            self.number += 1
            if len(raw) == _LONGEST_LINE and not raw.endswith(b"\n"):
                while (more := self._opened.stream.readline(_LONGEST_LINE)) and not more.endswith(b"\n"):
                    pass
                raise BadRow(f"the line is longer than {_LONGEST_LINE >> 20} MiB")
        except FAILURES as cause:
            raise CareError(
                f"{self._opened.name}: cannot be read after line {self.number}: {cause}"
            ) from None
        if self.number == 1 and raw.startswith(_BOM):
            if self._encoding != "utf-8":
                raise CareError(f"{self._opened.name}: begins with the mark of UTF-8; leave out the encoding")
            raw = raw.removeprefix(_BOM)
        try:
            return raw.decode(self._encoding)
        except UnicodeDecodeError:
            raise BadRow(self._undecodable(raw)) from None

    def _undecodable(self, raw: bytes) -> str:
        if self._encoding != "utf-8":
            return f"is not {self._encoding.upper()}"
        chinese = raw.decode("gb18030", "replace")
        if "\ufffd" not in chinese and any("\u4e00" <= character <= "\u9fff" for character in chinese):
            return "is not UTF-8, but may be GB18030: try --encoding gb18030"
        return "is not UTF-8; convert the file (iconv -t UTF-8)"
