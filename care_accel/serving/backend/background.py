"""A worker thread at idle CPU priority (SCHED_IDLE)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any


class Background:
    """A thread that runs work sequentially, optionally at idle priority.

    The priority applies to this thread and those that its work starts. Older threads communicate with the server and
    keep theirs: the server treats an unresponsive model as dead, and does not wait for a slow exit.
    """

    def __init__(self) -> None:
        self._before = _threads()
        self._work: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()
        threading.Thread(target=self._run, name="background", daemon=True).start()

    def run(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run work on the thread; return its result or raise its exception."""
        future: Future[Any] = Future()
        self._work.put((future, work, arguments))
        return future.result()

    def lower_priority(self) -> None:
        """Switch to SCHED_IDLE; threads started later inherit it."""
        self._set(os.SCHED_IDLE)

    def restore_priority(self) -> None:
        """Switch back to SCHED_OTHER, if permitted: for root, or with RLIMIT_NICE of 20 or more.

        A process exits only after each of its threads was scheduled once more, which may take half a minute at idle
        priority on a busy machine.
        """
        with suppress(PermissionError):
            self._set(os.SCHED_OTHER)

    def _set(self, policy: int) -> None:
        for thread in _threads() - self._before:
            with suppress(ProcessLookupError):  # the thread has exited
                os.sched_setscheduler(thread, policy, os.sched_param(0))

    def _run(self) -> None:
        while True:
            future, work, arguments = self._work.get()
            try:
                future.set_result(work(*arguments))
            except BaseException as failure:  # raised in the caller
                future.set_exception(failure)


def _threads() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/task")}
