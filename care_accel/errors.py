"""The exception for user errors, and its handling on the command line."""

from __future__ import annotations

import errno
import operator
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

# No space, or none for this user or process: a quota, and `ulimit -f`.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How libraries name it that give no number of the system's: SQLite, NumPy, PyTorch's files.
_FULL_ELSEWHERE = re.compile(r"disk is full|\d+ requested and \d+ written|unexpected pos \d+ vs \d+")
ELSEWHERE = "free some space, or choose a folder on another disk"


class CareError(ValueError):
    """An error that the user can fix; the message is one line with what, where, and how to fix it.

    Command lines print the message without a traceback and exit with code 2.
    """


class Stopped(Exception):  # no error: the command ends in good order
    """A signal ended a command before its work was done; what it has finished is kept.

    Attributes
    ----------
    number : int
        The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


class VersionRemoved(CareError):
    """The version of a collection that is open was removed by another process: it cannot be read any more, the newest can."""


def full_disk(cause: BaseException) -> str | None:
    """Return "the disk is full", with the system's reason if that is a limit of the user or the process; None for another error.

    Libraries in other languages put the reason into their text only.
    """
    text = str(cause).lower()
    number = cause.errno if isinstance(cause, OSError) else None
    for known in _FULL:
        if number == known or os.strerror(known).lower() in text:
            return "the disk is full" + (f" ({os.strerror(known)})" if known != errno.ENOSPC else "")
    return "the disk is full" if _FULL_ELSEWHERE.search(text) else None


@contextmanager
def tells_full_disk(
    place: str | Path, mend: str = ELSEWHERE, *, inside: Path | None = None
) -> Iterator[None]:
    """Raise `CareError` with a place and what to do there if the disk is full.

    One that was told so already is left, but for those of ``inside``, a temporary folder that nobody knows.
    """
    try:
        yield
    except Exception as cause:
        why = full_disk(cause)
        if why is None or (
            isinstance(cause, CareError) and (inside is None or str(inside) not in str(cause))
        ):
            raise
        raise CareError(f"{place}: {why}; {mend}") from None


def not_written(file: str | Path, cause: OSError) -> CareError:
    """Return the error for a file that cannot be written."""
    if why := full_disk(cause):
        return CareError(f"{file}: {why}; {ELSEWHERE}")
    return CareError(f"{file}: cannot be written: {cause.strerror or cause}")


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


def _drop(stream: TextIO) -> None:
    """Have what waits in a stream and cannot be written go nowhere, without a word at the exit."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_read(command: Callable[[], None]) -> bool:
    """Run a command and write what waits; return whether somebody reads what it prints, as far as rich has noticed."""
    try:
        command()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # where nobody reads, rich ends the process so
            return False
        sys.stdout.flush()  # of --help
        raise
    sys.stdout.flush()
    return True


def exit_code(command: Callable[[], None]) -> int:
    """Run a command and return its exit code.

    Returns
    -------
    int
        0; 2 after a `CareError`, whose message is printed on standard error, and where the disk is full; 128 and the number of the signal after one that ended
        it, so 130 after Ctrl-C and 143 after SIGTERM; 141 if nobody reads standard output any more, as after ``| head``.
    """
    try:
        try:
            if not _is_read(command):
                return 141
        except BrokenPipeError:
            if not _closed(sys.stdout):
                raise
            return 141
    except CareError as mistake:
        print(f"error: {' '.join(str(mistake).split())}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Stopped) as stopped:
        print("interrupted; finished work is kept, run the same command again to resume", file=sys.stderr)
        return 128 + (stopped.number if isinstance(stopped, Stopped) else signal.SIGINT)
    except Exception as cause:
        if (why := full_disk(cause)) is None:
            raise
        _drop(sys.stdout)
        place = getattr(cause, "filename", None) or "a file of this command, or where its output goes"
        print(f"error: {place}: {why}; free some space and run the same command again", file=sys.stderr)
        return 2
    return 0
