"""Ctrl-C for long work: the first ends it after the step under way, the second at once."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Tells whether Ctrl-C or SIGTERM came.

    Attributes
    ----------
    number : int
        The first that came; 0 before.
    """

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> bool:
        return self.number != 0


@contextmanager
def stops_once() -> Iterator[Stop]:
    """Yield what tells whether Ctrl-C or SIGTERM came; after that a second Ctrl-C ends the process with code 130.

    Python handles a signal when native code returns, and two that came meanwhile as one. A step of encoding takes seconds, so
    a thread listens: it answers at once. Only for the main thread, around work that survives SIGKILL.
    """
    stop = Stop()

    def handle(number: int, frame: object) -> None:
        stop.number = stop.number or number

    def listen() -> None:
        told = False
        while numbers := received.recv(64):
            for number in numbers:
                if number not in _NUMBERS:
                    continue
                if not told:
                    told = True
                    stop.number = stop.number or number
                    print(
                        "stopping after this step; Ctrl-C again stops at once, what is committed is kept",
                        file=sys.stderr,
                        flush=True,
                    )
                elif number == signal.SIGINT:
                    if sys.stderr.isatty():
                        print(
                            "\x1b[?25h", file=sys.stderr, flush=True
                        )  # the cursor, which a progress bar hides
                    os._exit(128 + number)

    received, sent = socket.socketpair()
    sent.setblocking(False)  # as `set_wakeup_fd` requires
    before = {number: signal.signal(number, handle) for number in _NUMBERS}
    woken = signal.set_wakeup_fd(sent.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=listen, name="signals", daemon=True)
    listener.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        sent.close()
        listener.join()
        received.close()
