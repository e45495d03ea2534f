"""Checks that a test run leaves nothing behind: the run has its own temporary folder, checked and removed at the end."""

import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from care_accel.serving.tritonserver.leftovers import now, remove_environments

_PREFIX = "care-tests-"
# The cache folder of the run, and what libraries keep in the temporary folder on purpose: compiled programs, a telemetry session.
_CACHE = "cache"
_CACHES = (_CACHE, "torchinductor_", ".ses")
_PATIENCE_S = 10.0


class Cleanliness:
    """The temporary folder of a run, created before its workers start, so that all processes of the run inherit it."""

    def __init__(self) -> None:
        # tmp_path stays where pytest has it, so that a failed test's files can be looked at.
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._begun = now()
        # The user's cache is neither filled by tests, nor do they find in it what an earlier run has made.
        own = {"TMPDIR": str(self.folder), "XDG_CACHE_HOME": str(self.folder / _CACHE)}
        self._before = {name: os.environ.get(name) for name in own}
        os.environ.update(own)
        tempfile.tempdir = None

    def leftovers(self) -> list[str]:
        """Return what tests left: files, and processes that do not end within a grace period; these are killed."""
        end = time.monotonic() + _PATIENCE_S
        while (processes := self._processes()) and time.monotonic() < end:
            time.sleep(0.2)
        for process in processes:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        found = [f"process {process}: {command}" for process, command in processes.items()]
        remove_environments(self._begun)
        files = [file for file in sorted(self.folder.iterdir()) if not file.name.startswith(_CACHES)]
        return [*found, *map(str, files)]

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        tempfile.tempdir = None

    def _processes(self) -> dict[int, str]:
        """Return the other processes that have this folder in their environment, with their command lines."""
        mark = f"TMPDIR={self.folder}".encode()
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            number = int(process.name)
            if number == os.getpid():
                continue
            with suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[number] = command[:200]
        return found
