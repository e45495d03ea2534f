"""Paths and names, as a user gives them, to sources of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from care_accel.collection.sources.columns import STATE, ColumnFile, Hub, Parquet, Saved
from care_accel.collection.sources.rows import Found, Selection
from care_accel.collection.sources.streams import Opened, is_plain_file
from care_accel.collection.sources.text_files import read_json_lines, read_table
from care_accel.errors import CareError
from care_accel.files import find_plain_or_gzip

HUB = "hf:"
_SPLITS = "dataset_dict.json"
# Files of a folder that are read, by what their names say; each file's content has the last word.
_KINDS = {
    "JSON lines": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson", ".ndjson.gz", ".ndjson.zst"),
    "Parquet": (".parquet",),
    "CSV": (".csv", ".csv.gz", ".csv.zst"),
    "TSV": (".tsv", ".tsv.gz", ".tsv.zst"),
}
_NOMINAL_ROW = 1000


class Source:
    """Something that rows are read from.

    Attributes
    ----------
    size : int, optional
        Bytes, by which progress is measured; None for a pipe.
    """

    size: int | None

    def rows(self, encoding: str, selection: Selection) -> Iterator[Found]:
        """Yield the rows; only once."""
        raise NotImplementedError

    def done(self) -> int:
        """Return the bytes that are read, of ``size``."""
        raise NotImplementedError


class Table(Source):
    """A source with columns."""

    def __init__(self, table: ColumnFile, size: int) -> None:
        self.size: int = size
        self.table = table

    def rows(self, encoding: str, selection: Selection) -> Iterator[Found]:
        """Yield the rows."""
        return self.table.read(selection)

    def done(self) -> int:
        """Return the bytes that the rows so far make up."""
        return round(self.size * self.table.rows / max(self.table.total, 1))


class File(Source):
    """A file, or standard input for None. An empty one is an error, unless it is one part of a folder."""

    def __init__(self, file: Path | None, *, part: bool = False) -> None:
        """Recognise a file, where it can be opened twice.

        Raises
        ------
        CareError
            It is empty, cannot be read, or is nothing that is read here.
        """
        self.file, self._part = file, part
        self._open: Opened | None = None
        self._table: Table | None = None
        plain = file is not None and is_plain_file(file)
        self.size = file.stat().st_size if file is not None and plain else None
        if plain:
            self._opened(plain).close()

    def rows(self, encoding: str, selection: Selection) -> Iterator[Found]:
        """Yield the rows."""
        opened = self._open = self._opened(self.size is not None)
        try:
            if opened.format == "parquet" and self.file is not None:
                self._table = Table(Parquet(self.file), self.size or 0)
                yield from self._table.rows(encoding, selection)
            elif opened.format is not None:
                read = read_json_lines if opened.format == "jsonl" else read_table
                yield from read(opened, encoding, selection)
        finally:
            opened.close()

    def done(self) -> int:
        """Return the bytes that are read of the file."""
        if self._table is not None:
            return self._table.done()
        return self._open.consumed if self._open is not None else 0

    def _opened(self, plain: bool) -> Opened:
        opened = Opened(self.file)
        try:
            if opened.format is None and not self._part:
                raise CareError(f"{opened.name}: is empty")
            if opened.format == "parquet" and (opened.compressed or not plain):
                where = "in a compressed file" if opened.compressed else "in a pipe"
                raise CareError(f"{opened.name}: Parquet cannot be read {where}; give the file itself")
        except CareError:
            opened.close()
            raise
        return opened


def find_sources(paths: Sequence[str | Path]) -> list[Source]:
    """Return the sources of some paths, in their order; the files of a folder by name.

    Raises
    ------
    CareError
        There is nothing at a path, or nothing that is read; or standard input is named twice.
    """
    names = [str(path) for path in paths]
    if not names:
        raise CareError("no documents are named; give files, folders, hf:NAME, or - for standard input")
    if names.count("-") > 1:
        raise CareError("- is named twice; standard input can be read once")
    sources: list[Source] = []
    for name in names:
        try:
            sources += _found(name)
        except OSError as cause:
            raise CareError(f"{name}: cannot be read: {cause.strerror}") from None
    return sources


def _found(name: str) -> Iterator[Source]:
    path = Path(name)
    if name == "-":
        yield File(None)
    elif name.startswith(HUB):
        table = Hub(name.removeprefix(HUB))
        yield Table(table, table.total * _NOMINAL_ROW)
    elif path.is_dir():
        yield from _in_folder(path)
    elif path.exists():
        yield File(path)
    else:
        raise CareError(
            f"{name}: no such file or folder; a data set of the Hugging Face hub is written hf:OWNER/NAME"
        )


def _in_folder(folder: Path) -> Iterator[Source]:
    if (folder / STATE).is_file():
        saved = Saved(folder)
        yield Table(saved, sum(file.stat().st_size for file in saved.files))
        return
    if (folder / _SPLITS).is_file():
        splits = sorted(entry.parent.name for entry in folder.glob(f"*/{STATE}"))
        raise CareError(f"{folder}: a data set with splits; name one of its folders: {', '.join(splits)}")
    if (corpus := find_plain_or_gzip(folder / "corpus.jsonl")) is not None:
        yield File(corpus)
        return
    kinds: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        for kind, endings in _KINDS.items():
            if (
                file.name.lower().endswith(endings)
                and not file.name.startswith((".", "_"))
                and file.is_file()
            ):
                kinds.setdefault(kind, []).append(file)
    if len(kinds) > 1:
        raise CareError(
            f"{folder}: has files of {' and of '.join(kinds)}; name those to read, not the folder"
        )
    if not kinds:
        raise CareError(
            f"{folder}: no documents in it: neither corpus.jsonl nor files that end in .jsonl, .parquet, .csv or .tsv"
        )
    for files in kinds.values():
        for file in files:
            yield File(file, part=True)
