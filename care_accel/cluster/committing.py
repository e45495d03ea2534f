"""A thread that folds parts into the table, so that the driver hands out parts while a commit reads a large table."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from care_accel.cluster.folding import Folder
from care_accel.cluster.plan import Plan
from care_accel.cluster.run_folder import RunFolder
from care_accel.collection.storage.table import Table

_TURN_SECONDS = 1.0


class _Left(Exception):
    """The driver goes: nothing more is to be committed."""


class Committer:
    """Folds parts in a thread of its own, one commit at a time and in the order of the plan, as `Folder` does.

    A context manager, to be left before the driver's lock is given back: what waits then is not begun, and a commit that is
    under way is waited for, whatever interrupts the wait.

    Parameters
    ----------
    run : RunFolder
    plan : Plan
    table : Table
    may_commit : callable
        As `Folder`; called in the thread.
    at_commit : callable
        Called in the thread after each commit, with the folder.

    Attributes
    ----------
    folder : Folder
        Of the thread; its counts may be read at any time, its table after `finish`.
    """

    def __init__(
        self,
        run: RunFolder,
        plan: Plan,
        table: Table,
        may_commit: Callable[[], None],
        at_commit: Callable[[Folder], None] = lambda folder: None,
    ) -> None:
        self._allowed, self._at_commit = may_commit, at_commit
        self.folder = Folder(run, plan, table, self._may_commit)
        # A part with its record, None for one that is set aside; None at the end.
        self._given: SimpleQueue[tuple[int, dict[str, Any] | None] | None] = SimpleQueue()
        self._last: Callable[[Folder], None] = lambda folder: None
        self._error: BaseException | None = None
        self._left = False
        self._thread = threading.Thread(target=self._work, name="commits", daemon=True)

    def __enter__(self) -> Committer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, cause: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left = True
        self._given.put(None)
        interrupted: BaseException | None = None
        while self._thread.is_alive():
            try:
                self._thread.join()
            except KeyboardInterrupt as again:
                interrupted = again
        if interrupted is not None:
            raise interrupted

    def add(self, number: int, record: dict[str, Any]) -> None:
        """Take a part that is done."""
        self._given.put((number, record))

    def set_aside(self, number: int) -> None:
        """Go on without a part."""
        self._given.put((number, None))

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._error is not None:
            raise self._error

    def finish(self, tick: Callable[[str], None], last: Callable[[Folder], None]) -> None:
        """Wait until everything that was given is committed.

        Parameters
        ----------
        tick : callable
            Called every second with what is waited for.
        last : callable
            Called in the thread after the last commit, with the folder.

        Raises
        ------
        CareError
            Something could not be committed.
        """
        self._last = last
        self._given.put(None)
        while self._thread.is_alive():
            self._thread.join(_TURN_SECONDS)
            tick("the last commits")
        self.check()

    def _work(self) -> None:
        try:
            while (given := self._given.get()) is not None and not self._left:
                number, record = given
                if record is None:
                    self._noting(partial(self.folder.set_aside, number))
                else:
                    self._noting(partial(self.folder.add, number, record))
            if not self._left:
                self._noting(self.folder.finish)
                self._last(self.folder)
        except _Left:
            pass
        except BaseException as cause:  # raised in the driver by `check`
            self._error = cause

    def _noting(self, step: Callable[[], None]) -> None:
        before = self.folder.commits
        step()
        if self.folder.commits > before:
            self._at_commit(self.folder)

    def _may_commit(self) -> None:
        if self._left:
            raise _Left
        self._allowed()
