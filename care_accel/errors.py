"""The one exception for what a user can mend, and what command lines make of it."""

from __future__ import annotations

import sys
from collections.abc import Callable


class CareError(ValueError):
    """A mistake that the caller can mend: one line that says what, where, and how to mend it.

    Command lines print the line and exit with code 2; they show no traceback for it.
    """


def require_count(name: str, value: object) -> None:
    """Refuse what is no whole number above 0; numpy's integers are numbers as well.

    Raises
    ------
    CareError
        With the name and the value.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < 1:
        raise CareError(f"{name} is {value!r}; it must be a whole number above 0")


def exit_code(command: Callable[[], None]) -> int:
    """Run a command line's work and return its exit code.

    Returns
    -------
    int
        0, or 2 after a `CareError`, whose line is printed on standard error; 130 after Ctrl-C.
    """
    try:
        command()
    except CareError as mistake:
        print(f"error: {' '.join(str(mistake).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    return 0
