"""Removes temporary folders that a killed server leaves behind.

Its Python backend creates a folder for packed environments at startup, ``/tmp/python_env_*`` regardless of TMPDIR, and
removes it only at a clean exit. The repositories of this package have no packed environments, so the folder stays empty.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

_FOLDER = Path("/tmp")
# Maximum seconds from the start of a server to the creation of its folder.
_START_S = 5.0


def now() -> float:
    """Return the seconds since boot, the clock of process start times."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def remove_environments(since: float, until: float | None = None) -> None:
    """Remove the folders of dead servers that started within a period.

    Two kinds of folder are kept: those that may belong to a live server, because they were created within seconds after
    the start of a running ``tritonserver``, and those that are not empty.

    Parameters
    ----------
    since, until : float
        The period in which the servers started, on the clock of `now`; ``until`` is the present by default.
    """
    alive = _starts_of_servers()
    for folder in _FOLDER.glob("python_env_??????"):
        with suppress(OSError):
            made = now() - (time.time() - folder.stat().st_ctime)
            if not since <= made <= (now() if until is None else until + _START_S):
                continue
            if not any(made - _START_S <= start <= made for start in alive):
                folder.rmdir()


def _starts_of_servers() -> list[float]:
    ticks = os.sysconf("SC_CLK_TCK")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "comm").read_text().strip() == "tritonserver":
                # proc(5): the start time is field 22; after the name in parentheses comes field 3.
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    found.append(int(fields[19]) / ticks)
    return found
