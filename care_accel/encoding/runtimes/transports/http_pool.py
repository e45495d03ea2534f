"""Connections over HTTP that wait for the next request, none of them for long."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

# A server that stops answers on its connections until they are closed, and refuses new ones. It waits for them for its exit
# timeout, 30 s by default, and then ends with what it has in hand; so no client may keep one.
LONGEST_S = 2.0
_MOST_IDLE = 64

_C = TypeVar("_C")


class Connection(NamedTuple, Generic[_C]):
    """A connection, and when it was opened."""

    link: _C
    opened: float


class Cancellable(Protocol):
    """A call that is due later."""

    def cancel(self) -> object:
        """Do not make it."""


class Pool(Generic[_C]):
    """Connections that wait; the newest is used first. For threads, and for coroutines.

    Parameters
    ----------
    close : callable
        Closes a connection.
    later : callable
        Calls a function in so many seconds.
    longest : float
        Seconds from the opening of a connection until it is closed, if it waits then, or else after its request.
    """

    def __init__(
        self,
        close: Callable[[_C], object],
        later: Callable[[float, Callable[[], None]], Cancellable],
        longest: float = LONGEST_S,
    ) -> None:
        self._close, self._later, self._longest = close, later, longest
        self._lock = threading.Lock()
        self._start_empty()

    def _start_empty(self) -> None:
        self._process = os.getpid()
        self._idle: list[Connection[_C]] = []
        self._due: Cancellable | None = None

    def __len__(self) -> int:
        return len(self._idle)

    def take(self) -> Connection[_C] | None:
        """Return a connection that waits, if there is one."""
        with self._lock:
            if self._process != os.getpid():
                # After a fork: two processes with one connection would read each other's answers.
                self._start_empty()
            return self._idle.pop() if self._idle else None

    def put(self, connection: Connection[_C]) -> None:
        """Let a connection wait for the next request, or close it."""
        left = connection.opened + self._longest - time.monotonic()
        with self._lock:
            if left > 0 and len(self._idle) < _MOST_IDLE:
                self._idle.append(connection)
                if self._due is None:
                    self._due = self._later(left, self._close_old)
                return
        self._close(connection.link)

    def _close_old(self) -> None:
        now = time.monotonic()
        with self._lock:
            self._due = None
            old = [one for one in self._idle if one.opened + self._longest <= now]
            self._idle = [one for one in self._idle if one.opened + self._longest > now]
            if self._idle:
                next_one = min(one.opened for one in self._idle) + self._longest - now
                self._due = self._later(next_one, self._close_old)
        for one in old:
            self._close(one.link)

    def clear(self) -> list[_C]:
        """Close the connections that wait, and return them."""
        with self._lock:
            closed, self._idle = self._idle, []
            if self._due is not None:
                self._due.cancel()
                self._due = None
        for one in closed:
            self._close(one.link)
        return [one.link for one in closed]


def later_on_a_thread(seconds: float, function: Callable[[], None]) -> threading.Timer:
    """Call a function in so many seconds, on a thread that ends with the process."""
    timer = threading.Timer(seconds, function)
    timer.daemon = True
    timer.start()
    return timer
