"""What a user asks of an approximate index: a recall, a memory limit, a budget of time."""

from __future__ import annotations

import re

import numpy as np

from care_accel.errors import CareError

_BYTES: dict[str, float] = {
    "": 1,
    "B": 1,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "TB": 1e12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_NUMBER = int | float | np.integer | np.floating
_SECONDS: dict[str, float] = {"": 1, "S": 1, "SEC": 1, "MIN": 60, "H": 3600}


def checked_recall(recall: object) -> float:
    """Return a recall between 0 and 1.

    Raises
    ------
    CareError
        It is none.
    """
    if isinstance(recall, bool) or not isinstance(recall, _NUMBER) or not 0 < recall < 1:
        more = (
            "; for a recall of 1 search exactly (ExactIndex, index='exact', --recall exact)"
            if isinstance(recall, _NUMBER) and recall == 1
            else ""
        )
        raise CareError(f"recall is {recall!r}; it must be a number between 0 and 1, such as 0.99{more}")
    return float(recall)


def in_bytes(memory: object) -> int | None:
    """Return a limit in bytes, of a number or a str such as ``"2 GB"``; None for none.

    Raises
    ------
    CareError
        It is no such limit.
    """
    if memory is None:
        return None
    return int(_quantity("memory", memory, _BYTES, "bytes, or a str such as '2 GB'"))


def in_seconds(budget: object) -> float:
    """Return a time in seconds, of a number or a str such as ``"5 min"``.

    Raises
    ------
    CareError
        It is no such time.
    """
    return _quantity("budget", budget, _SECONDS, "seconds, or a str such as '5 min'")


def _quantity(name: str, value: object, units: dict[str, float], wanted: str) -> float:
    found = None
    if isinstance(value, _NUMBER) and not isinstance(value, bool):
        found = float(value)
    elif isinstance(value, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", value)):
        unit = units.get(match[2].upper())
        found = None if unit is None else float(match[1]) * unit
    if found is None or not 0 < found < float("inf"):
        raise CareError(f"{name} is {value!r}; it must be a positive number of {wanted}")
    return found
