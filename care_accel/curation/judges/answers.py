"""Reads the answers of judges: one JSON object, also after the thinking of a reasoning model or a line of words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_END_OF_THINKING = re.compile(r"</think(?:ing)?>")
_THINKING = re.compile(r"</?think(?:ing)?>")
_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL | re.IGNORECASE)
_LONGEST_PREAMBLE = 200  # characters
_UNUSED = "reason"


def parse_answer(raw: str, schema: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """Parse and validate an answer; return its values, or the reason why it is invalid.

    Read is the one JSON object of the answer, bare or in a code fence. Before it may stand a byte order mark, what a reasoning
    model thought (up to ``</think>``) and at most 200 characters of words. What has two meanings is invalid: two
    objects, a name that is there twice, thinking without an end, words after the object.

    Parameters
    ----------
    raw : str
    schema : mapping
        JSON schema of an object, of the kind in `care_accel.curation.judges.prompting`. An integer may be written ``4.0``. The
        reason may be missing: it is asked for so that a model thinks before it grades, and is not used.

    Returns
    -------
    values : dict or None
    problem : str or None
        None if there are values.
    """
    try:
        values = _object(raw)
    except _Invalid as problem:
        return None, str(problem)
    properties, answer = schema["properties"], {}
    for name in schema["required"]:
        if name not in values and name != _UNUSED:
            return None, f"{name} is missing"
    for name, rule in properties.items():
        if name not in values:
            continue
        value = values[name]
        if rule["type"] == "integer":
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if isinstance(value, bool) or not isinstance(value, int):
                return None, f"{name} is not an integer"
        if rule["type"] == "string" and not isinstance(value, str):
            return None, f"{name} is not a string"
        if "enum" in rule and value not in rule["enum"]:
            return None, f"{name} is none of {rule['enum']}"
        answer[name] = value
    return answer, None


class _Invalid(Exception):
    """An answer that says nothing for certain; the text says why."""


def _object(raw: str) -> dict[str, Any]:
    text = raw.lstrip("\ufeff \t\r\n").rstrip()
    # A string of the object may mention the tags, so an answer that is an object from its start on has no thinking.
    if (whole := _decoded(text)) is not None and not whole[1]:
        return whole[0]
    # The opening tag may be missing: some chat templates write it into the prompt.
    if ends := list(_END_OF_THINKING.finditer(text)):
        text = text[ends[-1].end() :].lstrip("\ufeff \t\r\n")
    if _THINKING.search(text.partition("{")[0]):
        raise _Invalid("its thinking has no end")
    if not text:
        raise _Invalid("it is empty")
    if not text.startswith("{") and _is_json(text):
        raise _Invalid("it is not a JSON object")
    if (found := _FENCED.search(text)) and "{" not in text[: found.start()]:
        before, text, after = text[: found.start()], found[1], text[found.end() :]
    else:
        place = text.find("{")
        before, text, after = text[: max(place, 0)], text[max(place, 0) :], ""
    decoded = _decoded(text)
    if decoded is None:
        raise _Invalid("it is not JSON")
    values, rest = decoded
    rest += after
    if "{" in rest:
        raise _Invalid("it has more than one JSON object")
    if rest.strip():
        raise _Invalid("there are words after the JSON object")
    # A bracket or a quote before it: the object is a part of something else.
    if len(before) > _LONGEST_PREAMBLE or re.search(r'[\[\]}"]', before):
        raise _Invalid("there is more than a short line of words before the JSON object")
    return values


def _decoded(text: str) -> tuple[dict[str, Any], str] | None:
    """Return the object that a text begins with, and what follows it; None if it begins with none."""
    if not text.startswith("{"):
        return None
    try:
        values, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return values, text[end:]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _Invalid("a name is there twice")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
