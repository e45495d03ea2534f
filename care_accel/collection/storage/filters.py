"""Filters of a user: expressions over the fields, checked before and after Lance has read them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa

from care_accel.collection.storage.lance_errors import GONE, REMOVED, cleaned
from care_accel.collection.storage.rows import ID, TEXT, TITLE, TYPE_NAMES
from care_accel.errors import CareError, VersionRemoved

_COMPARES = r"(?:=|!=|<|<=|>|>=|IS DISTINCT FROM|IS NOT DISTINCT FROM)"
# What can be compared, by how the names of types begin.
_KINDS = {
    "int": "a number",
    "uint": "a number",
    "float": "a number",
    "double": "a number",
    "utf8": "a text",
    "string": "a text",
    "date": "a date or time",
    "timestamp": "a date or time",
    "bool": "true or false",
}


@contextmanager
def filter_errors(expression: str, fields: Mapping[str, pa.DataType]) -> Iterator[None]:
    """Raise `CareError` with the filter and the fields for what Lance raises."""
    try:
        yield
    except (ValueError, OSError, RuntimeError, pa.ArrowInvalid) as cause:
        if isinstance(cause, CareError):
            raise
        if REMOVED.search(str(cause)):
            raise VersionRemoved(GONE) from None
        problem = cleaned(cause).partition(" Valid fields are")[0].rstrip(". ")
        problem = re.sub(r"^Error resolving filter expression .*?: (?=Received|Invalid|Error)", "", problem)
        problem = re.sub(
            r"^Error \w+ statement: SELECT 1 FROM t WHERE .*? \((?=sql parser|Unterm)", "(", problem
        )
        raise _wrong(expression, problem, fields) from None


def require_filter(expression: str, fields: Mapping[str, pa.DataType]) -> None:
    """Require a user's filter that can be put into parentheses, means what it says, and names no column of the table's own.

    Raises
    ------
    CareError
        It is none.
    """
    if not isinstance(expression, str) or not expression.strip():
        raise CareError(f"the filter is {expression!r}; give an expression such as \"department = '儿科'\"")
    # They are around names in SQL, but around texts in Lance; what compares two texts is true of all documents or of none.
    if '"' in re.sub(r"'[^']*'|`[^`]*`", "", expression):
        raise CareError(
            f"filter {expression!r}: double quotes are not taken; a name goes between backticks, a text in single quotes"
        )
    # Parentheses are put around it, which nothing in it may close or comment out.
    if not is_enclosed(expression):
        raise CareError(f"filter {expression!r}: parentheses or quotes do not match, or it has a comment")
    bare = _without_texts(expression)
    names = re.findall("`([^`]*)`", bare) + re.findall(r"(?<!\w)_\w*", re.sub("`[^`]*`", "", bare))
    if own := next((name for name in names if name.startswith("_")), None):  # no field of a user begins so
        raise _wrong(expression, f"No field named {own}", fields)


def require_comparable(expression: str, plan: str, fields: Mapping[str, pa.DataType]) -> None:
    """Require that a filter compares fields with fields of their kind alone.

    Else Lance converts the values of one of them: it fails at the first that cannot be converted, and if there is none, as in a field
    that is always null, the filter leaves nothing without a word.

    Parameters
    ----------
    expression : str
    plan : str
        Lance's plan of it, which shows what is converted.
    fields : mapping of str to pyarrow.DataType

    Raises
    ------
    CareError
        It does not.
    """
    if re.search(r"cast\s*\(|::", _without_texts(expression), re.IGNORECASE):
        return  # asked for
    plan = re.sub('"[^"]*"', "", plan)
    for name, kind in {ID: pa.string(), TITLE: pa.string(), TEXT: pa.string(), **fields}.items():
        own = _kind_of(str(kind))
        cast = rf"CAST\({re.escape(name)} AS (\w+)(?:\([^)]*\))?\)"
        for found in re.finditer(rf"{_COMPARES} {cast}|{cast} {_COMPARES}", plan):
            other = _kind_of(found[1] or found[2])
            if own and other and own != other:
                problem = f"{name} is {TYPE_NAMES.get(kind, kind)} and cannot be compared with {other}"
                raise _wrong(expression, problem, fields)


def _kind_of(name: str) -> str | None:
    """Return the kind of a type by its name in Arrow or in a plan."""
    return next((kind for start, kind in _KINDS.items() if name.lower().startswith(start)), None)


def _wrong(expression: str, problem: str, fields: Mapping[str, pa.DataType]) -> CareError:
    known = ", ".join(
        f"{name if name.isidentifier() else f'`{name}`'} ({TYPE_NAMES.get(kind, str(kind))})"
        for name, kind in [(ID, pa.string()), (TITLE, pa.string()), (TEXT, pa.string()), *fields.items()]
    )
    return CareError(f"filter {expression!r}: {problem}; the fields are {known}")


def _without_texts(expression: str) -> str:
    return re.sub("'[^']*'", "", expression)


def is_enclosed(expression: str) -> bool:
    """Return whether an expression stays in the parentheses that are put around it."""
    bare = re.sub(r"'[^']*'|`[^`]*`", "", expression)
    if re.search(r"['`\";]|--|/\*", bare):
        return False
    depth = 0
    for mark in re.findall("[()]", bare):
        depth += 1 if mark == "(" else -1
        if depth < 0:
            return False
    return depth == 0
