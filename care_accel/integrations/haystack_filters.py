"""Haystack's metadata filters as the filters of a collection."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from typing import Any

from care_accel.errors import CareError

_COMPARED = {">": ">", ">=": ">=", "<": "<", "<=": "<="}
# Attributes of Haystack's document that a collection has under another name.
_ATTRIBUTES = {"id": "id", "content": "text"}


def sql_of(filters: Mapping[str, Any] | str | None) -> str | None:
    """Return filters of Haystack as an expression for `Collection.search`.

    Parameters
    ----------
    filters : dict or str, optional
        Comparisons (``field``, ``operator``, ``value``) and conditions (``operator``: AND, OR, NOT; ``conditions``), as
        Haystack's document stores take them; or an expression, which is returned as it is.

    Returns
    -------
    str or None
        It leaves what Haystack's own filters leave: a document without the field equals None, differs from every value, and
        is neither above nor below one. None where there are no filters.

    Raises
    ------
    CareError
        A part of the filters is missing or unknown.
    """
    if not filters:
        return None
    return filters if isinstance(filters, str) else _condition(filters)


def _condition(part: Any) -> str:
    if not isinstance(part, Mapping) or "operator" not in part:
        raise CareError(f"filters: {part!r} has no operator; see Haystack's metadata filtering")
    operator = part["operator"]
    if "field" in part:
        if "value" not in part:
            raise CareError(f"filters: {dict(part)!r} has no value; give one, or None")
        return _comparison(_column(part["field"]), operator, part["value"])
    conditions = part.get("conditions")
    if operator not in ("AND", "OR", "NOT") or not isinstance(conditions, list):
        raise CareError(
            f"filters: {dict(part)!r} has neither a field nor conditions under AND, OR or NOT; see Haystack's metadata "
            "filtering"
        )
    inner = [_condition(one) for one in conditions]
    if operator == "OR":
        return f"({' OR '.join(inner)})" if inner else "false"
    both = f"({' AND '.join(inner)})" if inner else "true"
    return both if operator == "AND" else f"(NOT {both})"


def _column(field: Any) -> str:
    name = field.removeprefix("meta.") if isinstance(field, str) else ""
    if not name or set(name) & set("`."):
        raise CareError(
            f"filters: the field is {field!r}; give a field of the collection, such as 'meta.department'"
        )
    return f"`{_ATTRIBUTES[name] if field == name and name in _ATTRIBUTES else name}`"


def _comparison(column: str, operator: str, value: Any) -> str:
    """Return an expression that is true or false, never null, so that NOT means the rest."""
    if operator in _COMPARED:
        if value is None:
            return "false"
        return f"({column} IS NOT NULL AND {column} {_COMPARED[operator]} {_literal(value)})"
    if operator in ("in", "not in"):
        if not isinstance(value, list):
            raise CareError(f"filters: {operator!r} takes a list, not {value!r}")
        inside = " OR ".join(_equal(column, one) for one in value) or "false"
        return f"({inside})" if operator == "in" else f"(NOT ({inside}))"
    if operator not in ("==", "!="):
        raise CareError(
            f"filters: the operator {operator!r} is unknown; use ==, !=, >, >=, <, <=, in or not in"
        )
    equal = _equal(column, value)
    return equal if operator == "==" else f"(NOT {equal})"


def _equal(column: str, value: Any) -> str:
    if value is None:
        return f"({column} IS NULL)"
    return f"({column} IS NOT NULL AND {column} = {_literal(value)})"


def _number(value: float) -> str:
    if not math.isfinite(value):
        raise CareError(f"filters: a value is {value}; give a finite number")
    # Lance takes no 2021.0 for a field of integers.
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


_LITERALS: dict[type, Callable[[Any], str]] = {
    bool: lambda value: "true" if value else "false",
    int: str,
    float: _number,
    str: lambda value: "'" + value.replace("'", "''") + "'",
    datetime.datetime: lambda value: f"timestamp '{value.isoformat(sep=' ')}'",
    datetime.date: lambda value: f"date '{value.isoformat()}'",
}


def _literal(value: Any) -> str:
    write = _LITERALS.get(type(value))
    if write is None:
        raise CareError(
            f"filters: a value is a {type(value).__name__}; give a text, a number, true or false, a date or a time"
        )
    return write(value)
