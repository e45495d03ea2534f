"""Work beside searches, which it should not hold up."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")

# The lowest of the usual priorities, which still has a share of a busy processor. A thread of idle priority could be stopped while it
# holds the interpreter's lock, and every answer would wait for it.
_NICE = 19


def lower_priority() -> None:
    """Give this thread, and those that it starts, a low priority."""
    with suppress(OSError, AttributeError):  # on Linux this is of one thread; elsewhere it may not be
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def in_background(work: Callable[[], Result], name: str) -> Future[Result]:
    """Do something on a thread of low priority, which does not hold up the end of the program.

    Parameters
    ----------
    work : callable
    name : str
        Of the thread.
    """
    future: Future[Result] = Future()

    def run() -> None:
        lower_priority()
        try:
            future.set_result(work())
        except BaseException as failure:  # raised for who asks for the result
            future.set_exception(failure)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
