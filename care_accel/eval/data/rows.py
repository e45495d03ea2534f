"""Rows of JSON lines, Parquet and tab-separated text, each with its place, and the values in them."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from care_accel.collection.sources.columns import Parquet
from care_accel.collection.sources.rows import BadRow
from care_accel.errors import CareError
from care_accel.files import read_jsonl, read_lines, replace_lone_surrogates

log = logging.getLogger(__name__)

Row = dict[str, Any]
Found = tuple[str, Row]

JSON_LINES, PARQUET = (".jsonl", ".ndjson", ".json"), (".parquet",)
TABLES = (".tsv", ".txt", ".trec")
PACKED = ("", ".gz", ".zst")

# Names of the column with a text's id, the first that a row has.
ID_NAMES = ("_id", "id", "docid", "doc_id", "pid", "qid", "query_id", "corpus-id", "query-id")

_WHOLE = re.compile(r"([+-]?[0-9]+)(?:\.0*)?", re.ASCII)


def ending(file: Path) -> str:
    """Return the ending that tells the format: ``.jsonl`` for ``corpus.jsonl.gz``."""
    name = file.name.lower()
    for packed in PACKED[1:]:
        name = name.removesuffix(packed)
    return Path(name).suffix


def read_rows(file: Path, columns: Mapping[int, tuple[str, ...]] | None = None) -> Iterator[Found]:
    """Yield the rows of a file with their places, such as ``corpus.jsonl, line 3`` or ``corpus.parquet, row 3``.

    Parameters
    ----------
    file : Path
        JSON lines, plain, gzip or zstd; Parquet; or, with ``columns``, text with tabs.
    columns : dict, optional
        Names of the columns of text with tabs by their number, for a file whose first line is no header.

    Raises
    ------
    CareError
        The file cannot be read, or a row is broken; the message gives the place.
    """
    kind = ending(file)
    if kind in JSON_LINES:
        for line, row in read_jsonl(file):
            yield f"{file}, line {line}", row
    elif kind in PARQUET:
        yield from _parquet(file)
    elif kind in TABLES and columns is not None:
        yield from _table(file, columns)
    else:
        raise CareError(f"{file}: is not read here; write it as JSON lines (.jsonl) or Parquet (.parquet)")


def _parquet(file: Path) -> Iterator[Found]:
    try:
        table = Parquet(file)
    except ModuleNotFoundError:
        raise CareError(f"{file}: Parquet needs the package pyarrow: pip install pyarrow") from None
    for row in table.values(table.names):
        place = f"{file}, row {table.rows}"
        if isinstance(row, BadRow):
            raise CareError(f"{place}: {row}")
        yield place, row


def _table(file: Path, columns: Mapping[int, tuple[str, ...]]) -> Iterator[Found]:
    """Read text with tabs as MS MARCO has it: no quotes; a header is known by its names."""
    names: tuple[str, ...] | None = None
    for line, text in read_lines(file):
        cells = text.rstrip("\r\n").split("\t")
        if line == 1:
            top = tuple(cell.strip().lower() for cell in cells)
            if "text" in top and {*ID_NAMES} & {*top}:
                names = top
                continue
        used = names or columns.get(len(cells))
        if used is None or len(used) != len(cells):
            expected = [used] if used else columns.values()
            raise CareError(
                f"{file}, line {line}: {len(cells)} columns; expected {' or '.join(', '.join(e) for e in expected)}, "
                "separated by tabs"
            )
        yield f"{file}, line {line}", dict(zip(used, cells, strict=True))


class Ids:
    """The ids in one column of one file: strings, or integers, which stand for the same digits; never both."""

    def __init__(self) -> None:
        self._first: tuple[type, str] | None = None

    def read(self, row: Row, names: tuple[str, ...], place: str) -> str:
        """Return the id in the first column of these names that a row has.

        Raises
        ------
        CareError
            It is missing, empty, or of another type than the ids before it.
        """
        name = next((name for name in names if name in row), None)
        if name is None:
            raise CareError(f"{place}: {names[0]!r} is missing; it must be a string or an integer")
        value = row[name]
        if type(value) not in (str, int):
            raise CareError(
                f"{place}: {name!r} is a {type(value).__name__}; it must be a string or an integer"
            )
        if self._first is None:
            self._first = type(value), place
        elif self._first[0] is not type(value):
            kind, other = ("an integer", "a string") if type(value) is int else ("a string", "an integer")
            raise CareError(
                f"{place}: {name!r} is {kind}, but {other} at {self._first[1].rpartition(', ')[2]}; write all ids "
                "of the file alike"
            )
        text = clean(str(value), place)
        if not text.strip():
            raise CareError(f"{place}: {name!r} is empty; give each row an id")
        return text


def text_of(row: Row, name: str, place: str) -> str:
    """Return a value that must be a str."""
    value = row.get(name)
    if not isinstance(value, str):
        problem = "is missing" if name not in row else f"is a {type(value).__name__}"
        raise CareError(f"{place}: {name!r} {problem}; it must be a string")
    return clean(value, place)


def texts_of(row: Row, name: str, place: str) -> list[str]:
    """Return a value that must be a list of str."""
    value = row.get(name)
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise CareError(f"{place}: {name!r} must be a list of strings")
    return [clean(v, place) for v in value]


def number_of(row: Row, name: str, place: str) -> float:
    """Return a value that must be a finite number."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CareError(f"{place}: {name!r} must be a finite number")
    return float(value)


def grade_of(value: Any, place: str) -> int:
    """Return a relevance grade: an integer, also where it is written ``1.0``."""
    if isinstance(value, str) and (whole := _WHOLE.fullmatch(value.strip())):
        return int(whole[1])
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    shown = value if isinstance(value, str) else str(value)
    raise CareError(
        f"{place}: score {shown!r} is not an integer; grades are whole numbers, 0 for not relevant"
    )


def clean(text: str, place: str) -> str:
    """Return a text without lone surrogates; they are replaced, and that is logged."""
    replaced, count = replace_lone_surrogates(text)
    if count:
        log.warning("%s: %d lone surrogates were replaced by U+FFFD", place, count)
    return replaced
