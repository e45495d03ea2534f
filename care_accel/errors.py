"""The exception for user errors, and its handling on the command line."""

from __future__ import annotations

import operator
import os
import select
import sys
from collections.abc import Callable
from typing import TextIO


class CareError(ValueError):
    """An error that the user can fix; the message is one line with what, where, and how to fix it.

    Command lines print the message without a traceback and exit with code 2.
    """


class VersionRemoved(CareError):
    """The version of a collection that is open was removed by another process: it cannot be read any more, the newest can."""


def require_count(name: str, value: object) -> None:
    """Require a positive integer, of Python or numpy.

    Raises
    ------
    CareError
        It is not; the message has the name and the value.
    """
    try:
        count = 0 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:  # of an array of several, too
        count = 0
    if count < 1:
        raise CareError(f"{name} is {value!r}; it must be a positive integer")


def _closed(stream: TextIO) -> bool:
    """Return whether nobody reads a stream any more; what is left in it then goes nowhere, without a word at the exit."""
    try:
        number = stream.fileno()
    except OSError:  # no file, as in tests
        return False
    poll = select.poll()
    poll.register(number, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return True


def exit_code(command: Callable[[], None]) -> int:
    """Run a command and return its exit code.

    Returns
    -------
    int
        0; 2 after a `CareError`, whose message is printed on standard error; 130 after Ctrl-C; 141 if nobody reads standard
        output any more, as after ``| head``.
    """
    try:
        try:
            command()
            sys.stdout.flush()
        except BrokenPipeError:
            if not _closed(sys.stdout):
                raise
            return 141
    except CareError as mistake:
        print(f"error: {' '.join(str(mistake).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; finished work is kept, run the same command again to resume", file=sys.stderr)
        return 130
    return 0
