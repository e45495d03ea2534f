"""Documents in request bodies: a JSON object, or JSON lines."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from care_accel.collection.storage.rows import TEXT, TITLE, TYPE_NAMES
from care_accel.serving.gateway.body import JSON, parse_object
from care_accel.serving.gateway.errors import invalid
from care_accel.serving.gateway.fields import refuse_unknown
from care_accel.serving.gateway.settings import Settings

LINES = ("application/x-ndjson", "application/jsonl")
KINDS = (JSON, *LINES)

# JSON has no dates: texts in ISO 8601 are taken for them where a field has them.
_FROM_TEXT = {
    TYPE_NAMES[pa.date32()]: datetime.date.fromisoformat,
    TYPE_NAMES[pa.timestamp("us")]: datetime.datetime.fromisoformat,
    TYPE_NAMES[pa.timestamp("us", "UTC")]: datetime.datetime.fromisoformat,
}


class Rows:
    """Rows of a request, with the place of each for messages.

    Parameters
    ----------
    values : list
        Any values of JSON.
    places : list of str
    """

    def __init__(self, values: list[Any], places: list[str]) -> None:
        self.values, self.places = values, places
        self.place = ""

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        for place, value in zip(self.places, self.values, strict=True):
            self.place = place
            yield value

    def typed(self, fields: Mapping[str, str]) -> Rows:
        """Return the rows with dates and times where the fields of a collection have them."""
        convert = {name: _FROM_TEXT[kind] for name, kind in fields.items() if kind in _FROM_TEXT}
        values = [_converted(value, convert) for value in self.values] if convert else self.values
        return Rows(values, self.places)

    def check_lengths(self, most: int) -> None:
        """Check that each document, its title included, is a text that the server encodes.

        Raises
        ------
        ApiError
            400 for one that is longer than ``most`` bytes.
        """
        for place, row in zip(self.places, self.values, strict=True):
            parts = [row.get(name) for name in (TITLE, TEXT)] if isinstance(row, dict) else []
            length = sum(len(part.encode("utf-8", "replace")) for part in parts if isinstance(part, str))
            if length > most:
                raise invalid(
                    f"{place} has {length} bytes of text in UTF-8; the maximum is {most}, as its collection does not cut "
                    "documents into chunks",
                    "documents",
                    "too_long",
                )


def read_rows(kind: str, body: bytes, settings: Settings) -> Rows:
    """Return the rows in a body.

    Raises
    ------
    ApiError
        400 if it is not as said, or has too many.
    """
    if kind == JSON:
        whole = parse_object(body, "the body")
        refuse_unknown(whole, ("documents",))
        values = whole.get("documents")
        if not isinstance(values, list):
            raise invalid("'documents' must be a list of objects", "documents")
        _check_count(len(values), settings)
        return Rows(values, [f"documents[{place}]" for place in range(len(values))])
    lines = [(number, line) for number, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    _check_count(len(lines), settings)
    places = [f"line {number}" for number, _ in lines]
    return Rows([parse_object(line, place) for place, (_, line) in zip(places, lines, strict=True)], places)


def _check_count(count: int, settings: Settings) -> None:
    if not count:
        raise invalid("there is no document; send at least one", "documents", "empty")
    if count > settings.max_documents:
        raise invalid(
            f"there are {count} documents; the maximum per request is {settings.max_documents}",
            "documents",
            "too_many",
        )


def _converted(row: Any, convert: Mapping[str, Any]) -> Any:
    if not isinstance(row, dict):
        return row
    made = dict(row)
    for name, from_text in convert.items():
        if isinstance(value := row.get(name), str):
            try:
                made[name] = from_text(value)
            except ValueError:  # left as it is, for the message about its type
                continue
    return made
