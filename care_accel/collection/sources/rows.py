"""One row of a source to a document: its id, title, text and fields, with their types checked."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from typing import Any

from care_accel.errors import CareError
from care_accel.files import replace_lone_surrogates

Row = dict[str, Any]

_OWN = ("id", "title", "text")
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_KINDS = ("str", "int", "float", "bool")
_NAMED_AT_MOST = 12


class BadRow(Exception):
    """A row that is no document; the text says why. The rows after it can still be read."""


# What a source yields: the place of a row, such as "corpus.jsonl, line 12", and its values or what is wrong with it.
Found = tuple[str, Row | BadRow]


class Selection:
    """Which values of a row make the document.

    Parameters
    ----------
    id, title : str, optional
        Names of their columns. By default ``_id`` or ``id``, and ``title`` where there is one.
    text : str
    fields : sequence of str, str or None
        Names, each with ``:str``, ``:int``, ``:float`` or ``:bool`` behind it if its values are to be turned into that;
        ``"*"`` for all columns that are not used already, and ``["*", "year:int"]`` for all of them with some types; None
        for none.

    Raises
    ------
    CareError
        A field is named twice, or as one of the document's own values.
    """

    def __init__(
        self,
        id: str | None,
        text: str,
        title: str | None,
        fields: Sequence[str] | None,
    ) -> None:
        self.id, self.text, self.title = id, text, title
        wished = [fields] if isinstance(fields, str) else list(fields or ())
        self.every = "*" in wished
        self.fields: dict[str, str | None] = {}
        for field in (field for field in wished if field != "*"):
            name, _, kind = field.rpartition(":")
            name, wanted = (name, kind) if name and kind in _KINDS else (field, None)
            if name in self.fields:
                raise CareError(f"the field {name!r} is named twice")
            if name in _OWN or not name:
                raise CareError(
                    f"a field cannot be named {name!r}: documents have id, title and text of their own"
                )
            self.fields[name] = wanted
        self.replaced_surrogates = 0

    @property
    def explicit(self) -> set[str]:
        """The names that were asked for and that a row may lack."""
        return {*self.fields, *([self.title] if self.title is not None else [])}

    def require(self, names: Collection[str], where: str) -> None:
        """Check that what was asked for is among the names of a source.

        Raises
        ------
        CareError
            It is not; the message lists the names.
        """
        for name in sorted(self.explicit - set(names)):
            kind = name.rpartition(":")[2]
            hint = f"; types are {', '.join(_KINDS)}" if ":" in name and kind else ""
            raise CareError(f"{where}: there is no {name!r}{hint}; there are: {_listed(names)}")

    def columns(self, names: Sequence[str], where: str) -> list[str]:
        """Return the columns that are needed, of a source that has the same columns in each row.

        Raises
        ------
        CareError
            A column is missing, or is there twice.
        """
        if twice := sorted({name for name in names if name and names.count(name) > 1}):
            raise CareError(f"{where}: there are two columns {twice[0]!r}")
        self.require(names, where)
        try:
            used = [self._id_name(names), self.text]
        except BadRow as bad:
            raise CareError(f"{where}: {bad}") from None
        if self.text not in names:
            raise CareError(f"{where}: {_missing(repr(self.text), names, 'text')}")
        if (title := self.title or "title") in names:
            used.append(title)
        return [*dict.fromkeys([*used, *self._field_names(names, used, where)])]

    def document(self, values: Mapping[str, Any], place: str) -> Row:
        """Return the document of a row: ``id``, ``title`` and ``text``, each a str, and the fields.

        Raises
        ------
        BadRow
            The row has no such id or text, or a field of another type.
        CareError
            With all fields asked for, one has the name of an own value of documents.
        """
        name = self._id_name(values)
        title = self.title or "title"
        document: Row = {"id": self._identity(name, values.get(name))}
        document["title"] = "" if values.get(title) is None else self._string(title, values, "title")
        document["text"] = self._string(self.text, values, "text")
        for field in self._field_names(values, [name, title, self.text], place):
            document[field] = self._value(field, values.get(field), self.fields.get(field))
        return document

    def _id_name(self, names: Collection[str]) -> str:
        if self.id is not None:
            if self.id not in names:
                raise BadRow(_missing(repr(self.id), names, "id"))
            return self.id
        found = [name for name in ("_id", "id") if name in names]
        if len(found) == 2:
            raise BadRow("there are both '_id' and 'id' (--id says which it is)")
        if not found:
            raise BadRow(_missing("'_id' or 'id'", names, "id"))
        return found[0]

    def _field_names(self, names: Collection[str], used: Collection[str], place: str) -> Iterator[str]:
        yield from self.fields
        for name in names if self.every else ():
            if name and name not in used and name not in self.fields:
                if name in _OWN:
                    raise CareError(
                        f"{place}: {name!r} cannot be a field, as documents have a {name} of their own; name the fields "
                        "that you need instead of all"
                    )
                yield name

    def _identity(self, name: str, value: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise BadRow(f"{name!r} is {_described(value)}; an id is a string or an integer")
        if not value.strip():
            raise BadRow(f"{name!r} is empty")
        return self._clean(value)

    def _string(self, name: str, values: Mapping[str, Any], role: str) -> str:
        value = values.get(name)
        if isinstance(value, str):
            return self._clean(value)
        if name not in values:
            raise BadRow(_missing(repr(name), values, role))
        raise BadRow(f"{name!r} is {_described(value)}; it must be a string")

    def _value(self, name: str, value: Any, kind: str | None) -> Any:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None  # NaN is how tables of numbers write that there is none
        if kind is not None:
            value = _converted(name, value, kind)
        if isinstance(value, str):
            return self._clean(value)
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise BadRow(f"the field {name!r} is an integer of more than 64 bits")
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return [self._clean(item) for item in value]
        hint = f"; take it as text with {name}:str" if isinstance(value, date | time | Decimal) else ""
        raise BadRow(
            f"the field {name!r} is {_described(value)}; fields are strings, numbers, true or false, or lists of strings"
            + hint
        )

    def _clean(self, text: str) -> str:
        clean, replaced = replace_lone_surrogates(text)
        self.replaced_surrogates += replaced
        return clean


def _converted(name: str, value: Any, kind: str) -> Any:
    """Return a value as another type: text of tables, which have no types, and numbers as text."""
    bare = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if isinstance(value, str):
        if kind == "str":
            return value
        text = value.strip()
        if not text:
            return None
        if kind == "int" and _INTEGER.fullmatch(text):
            return int(text)
        if kind == "bool" and text.lower() in _TRUTH:
            return _TRUTH[text.lower()]
        if kind == "float":
            try:
                return None if math.isnan(number := float(text)) else number
            except ValueError:
                pass
    elif kind == "str" and (bare or isinstance(value, date | time)):
        return value.isoformat() if isinstance(value, date | time) else str(value)
    elif (kind == "str" or kind == "bool") and isinstance(value, bool):
        return value if kind == "bool" else str(value).lower()
    elif kind == "float" and bare:
        return float(value)
    elif kind == "int" and bare and value % 1 == 0:
        return int(value)
    shown = repr(value) if len(repr(value)) <= 40 else repr(value)[:40] + "..."
    raise BadRow(f"the field {name!r} is {shown}, which is no {kind}")


def _described(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _missing(what: str, names: Collection[str], role: str) -> str:
    return f"{what} is missing; there are: {_listed(names)} (--{role} says which it is)"


def _listed(names: Collection[str]) -> str:
    shown = [name for name in names if name][:_NAMED_AT_MOST]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "") if shown else "nothing"
