"""The lock of the one who commits what several machines encode: one driver of a collection at a time."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from care_accel.collection.storage.layout import LOCK, is_remote
from care_accel.collection.storage.objects import Objects, objects_of
from care_accel.errors import CareError

log = logging.getLogger(__name__)

# In an object store the holder writes its lock again every so many seconds; one that has not been written for so many is of a
# holder that is gone.
_BEAT, _GONE = 5.0, 30.0
_LOOK = 1.0


@contextmanager
def driver_lock(uri: str, storage_options: Mapping[str, str] | None = None) -> Iterator[Callable[[], None]]:
    """Hold the lock of a collection; it ends with its process, in an object store 30 seconds later.

    Yields
    ------
    callable
        Raises `CareError` if another process has taken the lock since, as from a process that was stopped for a minute. To
        be called before each commit.

    Raises
    ------
    CareError
        Another process holds it.
    """
    if is_remote(uri):
        lease = _Lease(objects_of(f"{uri.rstrip('/')}/{LOCK}", storage_options))
        with lease.held():
            yield lease.check
    else:
        with _file_lock(Path(uri)):
            yield lambda: None


@contextmanager
def _file_lock(folder: Path) -> Iterator[None]:
    try:
        number = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as cause:
        raise CareError(f"{folder}: not writable: {cause.strerror}") from None
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(number, 200, 0).decode("utf-8", "replace").strip() or "another process"
            raise CareError(_taken(str(folder), holder)) from None
        os.ftruncate(number, 0)
        os.pwrite(number, _self().encode(), 0)
        yield
    finally:
        os.close(number)


class _Lease:
    """A lock of files that can be created once: that of the highest number counts, and who follows creates the next.

    No clock is compared with another one: a lock is of a process that is gone when its content stays the same for 30 seconds.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._name = ""
        self._beats = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        self._take()
        ended = threading.Event()
        thread = threading.Thread(target=self._keep, args=(ended,), daemon=True, name="driver lock")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with suppress(CareError):  # the store is gone: the lock is too, in 30 seconds
                for name in self._names():
                    if name <= self._name:
                        self._objects.remove(name)

    def check(self) -> None:
        if any(name > self._name for name in self._names()):
            raise CareError(
                f"{self._objects.where}: another process has taken the lock, as this one was not heard for {_GONE:.0f} s; "
                "run the same command again when it has ended"
            )

    def _take(self) -> None:
        names = self._names()
        last = names[-1] if names else ""
        if last and (held := self._objects.read(last)) is not None:
            holder = str(json.loads(held)["holder"])
            log.warning(
                "%s: waiting up to %.0f s to see whether %s is gone", self._objects.where, _GONE, holder
            )
            ended = time.monotonic() + _GONE
            while time.monotonic() < ended:
                time.sleep(_LOOK)
                now = self._objects.read(last)
                if now is None:  # it has ended
                    break
                if now != held:
                    raise CareError(_taken(self._objects.where, holder))
        self._name = f"{int(last.partition('.')[0] or 0) + 1:06d}.json"
        if not self._objects.create(self._name, self._text()):
            raise CareError(_taken(self._objects.where, "another process"))
        self.check()

    def _keep(self, ended: threading.Event) -> None:
        while not ended.wait(_BEAT):
            self._beats += 1
            with suppress(CareError):  # the next one may be heard
                self._objects.write(self._name, self._text())

    def _text(self) -> bytes:
        return json.dumps({"holder": _self(), "beats": self._beats}).encode()

    def _names(self) -> list[str]:
        return sorted(entry.name for entry in self._objects.entries())


def _self() -> str:
    return f"process {os.getpid()} on {os.uname().nodename}"


def _taken(where: str, holder: str) -> str:
    return f"{where}: {holder} is encoding into it; wait until it has ended"
