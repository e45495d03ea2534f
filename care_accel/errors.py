"""The one exception for what a user can mend, and what command lines make of it."""

from __future__ import annotations

import sys
from collections.abc import Callable


class CareError(ValueError):
    """A mistake that the caller can mend: one line that says what, where, and how to mend it.

    Command lines print the line and exit with code 2; they show no traceback for it.
    """


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
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    return 0
