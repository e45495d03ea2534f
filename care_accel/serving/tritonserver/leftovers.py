"""What a killed server leaves behind.

Its Python backend makes a folder for packed environments at its start, ``/tmp/python_env_*`` whatever TMPDIR says, and
removes it at a clean exit only. The repositories of this package pack no environments, so the folder stays empty.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

_FOLDER = Path("/tmp")
# Seconds from the start of a server to its folder, at most.
_START_S = 5.0


def now() -> float:
    """Return the seconds since the system booted, as the start times of processes are counted."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def remove_environments(since: float, until: float | None = None) -> None:
    """Remove the folders of servers that started in some time and are dead.

    A folder that may belong to a live server is left: one made within seconds after the start of a ``tritonserver``
    that runs. So is one that is not empty.

    Parameters
    ----------
    since, until : float
        When the dead servers started, in seconds as `now` has them; until now by default.
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
