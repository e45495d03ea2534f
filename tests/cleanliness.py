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
# Caches that libraries keep in the temporary folder on purpose: compiled programs, a telemetry session.
_CACHES = ("torchinductor_", ".ses")
_PATIENCE_S = 10.0


class Cleanliness:
    """The temporary folder of a run, created before its workers start, so that all processes of the run inherit it."""

    def __init__(self) -> None:
        # tmp_path stays where pytest has it, so that a failed test's files can be looked at.
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._before = os.environ.get("TMPDIR")
        self._begun = now()
        os.environ["TMPDIR"] = str(self.folder)
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
        if self._before is None:
            os.environ.pop("TMPDIR", None)
        else:
            os.environ["TMPDIR"] = self._before
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
