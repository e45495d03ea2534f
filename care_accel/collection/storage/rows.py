"""Rows of a user, checked: ids, texts, and the types of fields."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import pyarrow as pa

from care_accel.errors import CareError
from care_accel.files import replace_lone_surrogates

# Of a document; all other names of a row are the user's fields.
ID, TITLE, TEXT = "id", "title", "text"
HASH_BYTES = 16

TYPE_NAMES = {
    pa.bool_(): "true or false",
    pa.int64(): "an integer",
    pa.float64(): "a number",
    pa.string(): "a text",
    pa.list_(pa.string()): "a list of texts",
    pa.date32(): "a date",
    pa.timestamp("us"): "a time",
    pa.timestamp("us", "UTC"): "a time with its zone",
}
_INT64 = 2**63


@dataclass(slots=True)
class Document:
    """A checked row.

    Attributes
    ----------
    id : str
    title, text : str
    fields : dict
        The user's fields, without those that are None.
    """

    id: str
    title: str
    text: str
    fields: dict[str, Any]
    _hashes: tuple[bytes, bytes] | None = field(default=None, repr=False, compare=False)

    def content_hash(self, chunking: str) -> bytes:
        """Return a hash of what is encoded: title and text, and how they are cut."""
        return self._hash(chunking)[0]

    def row_hash(self, chunking: str) -> bytes:
        """Return a hash of everything: equal rows need not be written again."""
        return self._hash(chunking)[1]

    def _hash(self, chunking: str) -> tuple[bytes, bytes]:
        if self._hashes is None:  # asked for several times, for one chunking
            fields = json.dumps(self.fields, ensure_ascii=False, sort_keys=True, default=str)
            content = _hash(self.title, self.text, chunking)
            self._hashes = content, _hash(content.hex(), fields)
        return self._hashes


def _hash(*parts: str) -> bytes:
    digest = blake2b(digest_size=HASH_BYTES)
    for part in parts:
        raw = part.encode()
        # The length tells where a part ends: ("ab", "c") is not ("a", "bc").
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.digest()


class FieldTypes:
    """The types of a collection's fields, which grow by the fields of new rows.

    Parameters
    ----------
    known : mapping of str to pyarrow.DataType
    """

    def __init__(self, known: Mapping[str, pa.DataType]) -> None:
        self.known = dict(known)

    def checked(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return the fields of a row without those that are None; learn the types of new ones.

        Raises
        ------
        CareError
            A name or a value cannot be stored, or a value has another type than before.
        """
        fields = {}
        new: dict[str, pa.DataType] = {}
        for name, value in values.items():
            if value is None:
                continue
            if getattr(value, "ndim", None) == 0:  # a scalar of numpy
                value = _plain(value)
            kind = _type_of(value, f"{where}: field {name!r}")
            known = self.known.get(name)
            if known is None:
                check_name(name, where)
                new[name] = known = kind
            if known == pa.float64() and kind == pa.int64():
                value = float(value)
            elif known == pa.timestamp("us") and kind == pa.date32():
                value = datetime.datetime.combine(value, datetime.time())
            elif kind != known:
                raise CareError(
                    f"{where}: field {name!r} is {TYPE_NAMES[kind]} ({_shown(value)}), but in this collection it is "
                    f"{TYPE_NAMES.get(known, str(known))}; convert the value, or use another name"
                )
            if isinstance(value, str):
                value = replace_lone_surrogates(value)[0]
            elif isinstance(value, list | tuple):
                value = [replace_lone_surrogates(item)[0] for item in value]
            fields[name] = value
        self.known |= new  # of a row that is wrong elsewhere, nothing is learned
        return fields


def check_name(name: Any, where: str) -> None:
    """Check the name of a field.

    Raises
    ------
    CareError
        It is empty, taken, or cannot be used in a filter.
    """
    if not isinstance(name, str) or not name.strip():
        raise CareError(f"{where}: a field is named {name!r}; names are texts that are not empty")
    if name.startswith("_"):
        raise CareError(
            f"{where}: field {name!r} begins with an underscore; such names are taken, use another one"
        )
    if set(name) & set(".`\"'\n\r\0") or len(name) > 200:
        raise CareError(
            f"{where}: field {_shown(name)} cannot be used in filters; use a name of at most 200 characters without dots, "
            "quotes and line ends"
        )


def _plain(value: Any) -> Any:
    """Return a scalar of numpy as one of Python; a time in nanoseconds would be an integer."""
    if getattr(getattr(value, "dtype", None), "kind", "") == "M" and not isinstance(
        value.item(), datetime.date | None
    ):
        value = value.astype("datetime64[us]")
    return value.item()


def _type_of(value: Any, where: str) -> pa.DataType:
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        if not -_INT64 <= value < _INT64:
            raise CareError(f"{where} is an integer beyond 64 bits; store it as a text")
        return pa.int64()
    if isinstance(value, float):
        if not math.isfinite(value):
            raise CareError(f"{where} is {value}; use a finite number or null")
        return pa.float64()
    if isinstance(value, str):
        return pa.string()
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            return pa.timestamp("us")
        try:
            value.astimezone(datetime.UTC)
        except OverflowError:
            raise CareError(f"{where} is {value}, which is no year from 1 to 9999 in UTC") from None
        return pa.timestamp("us", "UTC")
    if isinstance(value, datetime.date):
        return pa.date32()
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return pa.list_(pa.string())
    raise CareError(
        f"{where} is a {type(value).__name__}; a field is a text, a number, true or false, a date, or a list of texts"
    )


def checked_id(value: Any, where: str) -> str:
    """Return a document's id as a text; integers are taken as their digits.

    Raises
    ------
    CareError
        It is missing, empty or no id.
    """
    if hasattr(value, "__index__") and not isinstance(value, bool | str):
        try:
            value = str(value.__index__())
        except ValueError:  # Python writes no integers of thousands of digits
            raise CareError(f"{where}: the id is an integer of too many digits; give it as a text") from None
    if not isinstance(value, str):
        problem = "is missing" if value is None else f"is a {type(value).__name__}"
        raise CareError(f"{where}: the id {problem}; it must be a text or an integer")
    if not value:
        raise CareError(f"{where}: the id is empty; give every document one of its own")
    return replace_lone_surrogates(value)[0]


def documents(rows: Any, types: FieldTypes) -> Iterator[Document]:
    """Check rows one after another.

    Parameters
    ----------
    rows : iterable of mapping, or pyarrow.Table or RecordBatch
        May say where its last row came from (``place``), and take back a row that cannot be stored (``reject(reason)``,
        which returns whether to go on), as `DocumentReader` does.
    types : FieldTypes
        Learns new fields.

    Raises
    ------
    CareError
        A row cannot be stored; the message has its position, from 0, or its place, and its id. The rows before it have been
        yielded.
    """
    reject = getattr(rows, "reject", None)
    for position, row in enumerate(_as_mappings(rows)):
        try:
            yield _document(row, types, getattr(rows, "place", None) or f"row {position}")
        except CareError as problem:
            if reject is None or not reject(str(problem)):
                raise


def _document(row: Any, types: FieldTypes, where: str) -> Document:
    if not isinstance(row, Mapping):
        raise CareError(f"{where} is a {type(row).__name__}; it must be a dict with id and text")
    identifier = checked_id(row.get(ID), where)
    where = f"{where} (id {_shown(identifier)})"
    text = _text(row, TEXT, where)
    if text is None:
        raise CareError(f"{where}: the text is missing; give every document a text, empty if it must be")
    others = {name: value for name, value in row.items() if name not in (ID, TITLE, TEXT)}
    return Document(identifier, _text(row, TITLE, where) or "", text, types.checked(others, where))


def _text(row: Mapping[str, Any], name: str, where: str) -> str | None:
    value = row.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise CareError(f"{where}: the {name} is a {type(value).__name__}; it must be a text")
    return replace_lone_surrogates(value)[0]


def _as_mappings(rows: Any) -> Iterable[Any]:
    if isinstance(rows, pa.Table):
        return (row for batch in rows.to_batches(max_chunksize=1024) for row in batch.to_pylist())
    if isinstance(rows, pa.RecordBatch):
        return _as_mappings(pa.Table.from_batches([rows]))
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise CareError(
            f"rows are a {type(rows).__name__}; give a list or an iterator of dicts, or an Arrow table"
        )
    return rows


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def among(ids: Sequence[str]) -> str:
    """Return the condition that a row is of one of some documents."""
    quoted = ",".join("'" + value.replace("'", "''") + "'" for value in ids)
    return f"{ID} IN ({quoted})"
