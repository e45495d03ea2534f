"""Work that computes only when nobody else wants the processor."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any


class Background:
    """A thread that does work one after the other, and gives way to everything else once it is told to.

    Only what computes gives way: this thread and those that its work has started. The threads that were here before
    talk to the server, and must be heard while the processor is busy: a model that does not answer is taken for dead,
    and one that does not end in time is not waited for.
    """

    def __init__(self) -> None:
        self._before = _threads()
        self._work: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()
        threading.Thread(target=self._run, name="background", daemon=True).start()

    def do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Return what some work returns, or raise what it raises."""
        future: Future[Any] = Future()
        self._work.put((future, work, arguments))
        return future.result()

    def give_way(self) -> None:
        """From now on compute only when no other process wants to; threads that work starts later inherit it."""
        self._set(os.SCHED_IDLE)

    def compete(self) -> None:
        """Compute like everybody else again, if the system permits it: for root, or where RLIMIT_NICE is 20 or more.

        To end, a process needs every one of its threads to run once more. On a machine without an idle moment those
        that give way may not for half a minute.
        """
        with suppress(PermissionError):
            self._set(os.SCHED_OTHER)

    def _set(self, policy: int) -> None:
        for thread in _threads() - self._before:
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setscheduler(thread, policy, os.sched_param(0))

    def _run(self) -> None:
        while True:
            future, work, arguments = self._work.get()
            try:
                future.set_result(work(*arguments))
            except BaseException as failure:  # who asked is told
                future.set_exception(failure)


def _threads() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/task")}
