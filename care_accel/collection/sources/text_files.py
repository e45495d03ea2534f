"""JSON lines and tables in text (CSV, TSV), row by row with true line numbers."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator

from care_accel.collection.sources.rows import BadRow, Found, Row, Selection
from care_accel.collection.sources.streams import Lines, Opened
from care_accel.errors import CareError
from care_accel.files import parse_json

# A name that was asked for and that none of so many rows has is a mistake.
_TRIED = 100
_LONGEST_CELL = 1 << 26
_QUOTED = re.compile('"[^"]*"')


def read_json_lines(
    opened: Opened, encoding: str, selection: Selection, *, before: int = 0
) -> Iterator[Found]:
    """Yield the objects of a file of JSON lines, or of its rest behind so many lines.

    Raises
    ------
    CareError
        The file cannot be read, or its first rows have none of a name that was asked for.
    """
    rows = _objects(opened, encoding, before)
    first: list[Found] = []
    failure = None
    if selection.explicit and not before:
        try:
            first.extend(itertools.islice(rows, _TRIED))
        except CareError as cause:
            failure = cause  # after the rows before it
        names = {name: None for _, row in first if not isinstance(row, BadRow) for name in row}
        if names:
            selection.require(names, f"{opened.name}, in its first {len(first)} rows")
    yield from first
    if failure is not None:
        raise failure
    yield from rows


def _objects(opened: Opened, encoding: str, before: int) -> Iterator[Found]:
    lines = Lines(opened, encoding)
    lines.number = before
    while True:
        try:
            if (line := next(lines, None)) is None:
                return
            found = _object(line) if line.strip() else None  # blank lines are allowed
        except BadRow as bad:
            found = bad
        if found is not None:
            yield f"{opened.name}, line {lines.number}", found


def _object(line: str) -> Row | BadRow:
    try:
        value = parse_json(line.rstrip())
    except ValueError as cause:
        return BadRow(str(cause))
    if not isinstance(value, dict):
        return BadRow(f"expected a JSON object, not a {type(value).__name__}")
    return value


def read_table(opened: Opened, encoding: str, selection: Selection) -> Iterator[Found]:
    """Yield the rows of a table in text, with a header; commas or tabs are told from it. All values are text.

    Raises
    ------
    CareError
        The file cannot be read, or its header lacks a column.
    """
    csv.field_size_limit(_LONGEST_CELL)  # of the process; the default is less than a long document
    lines = Lines(opened, encoding)
    try:
        top = next((line for line in lines if line.strip()), "")
        bare = _QUOTED.sub("", top)
        delimiter = "\t" if bare.count("\t") >= max(bare.count(","), 1) else ","
        reader = csv.reader(itertools.chain([top], lines), delimiter=delimiter, strict=True)
        header = [name.strip() for name in next(reader)]
    except (BadRow, csv.Error) as bad:
        raise CareError(f"{opened.name}, line {max(lines.number, 1)}: {bad}") from None
    used = selection.columns(header, f"{opened.name}, line {lines.number}")
    places = [(name, header.index(name)) for name in used]
    while True:
        place = f"{opened.name}, line {lines.number + 1}"
        found: Row | BadRow
        try:
            cells = next(reader)
        except StopIteration:
            return
        except BadRow as bad:
            place, found = f"{opened.name}, line {lines.number}", bad
        except csv.Error as cause:
            found = BadRow(f"not CSV: {cause}; quotes inside quotes are written twice")
        else:
            if not cells or (cells == [cells[0]] and not cells[0].strip()):
                continue
            if len(cells) == len(header):
                found = {name: cells[at] for name, at in places}
            else:
                found = BadRow(f"has {len(cells)} columns, the header {len(header)}")
        yield place, found
