"""Requests that wait for a model, and when they are too many.

The server's own limits (``max_queue_size``, ``default_timeout_microseconds``, ``allow_timeout_override``) are not used.
With any of them its batcher stops handing requests over ahead of time, and then may miss one that comes in the moment
in which the last batch ends: that one waits for the next, or half a second. Seen in release 2.51 with one client and
with 64; later releases have the same code. So the model itself asks the server how many wait, and refuses for it.
"""

from __future__ import annotations

import http.client
import itertools
import os
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

_GAUGE = "nv_inference_pending_request_count"
# Seconds between two looks while requests pile up. A look costs the server a millisecond.
_LOOK_EVERY = 0.02
# What was seen longer ago says nothing: clients may have gone since.
_STALE_AFTER = 0.2


class Backlog:
    """Says which requests to refuse so that those behind them need not wait for too long.

    While batches come in full or take long, a thread reads from the server's metrics page how many requests wait. As long as they
    are more than the limit, what is handed over is refused instead of computed.

    Parameters
    ----------
    model : str
    most : int
        Requests that may wait.
    wait : float
        Seconds that they may take together: a slow model has a lower limit than ``most``.
    full : int
        Requests of a batch that give reason to look.
    address : tuple of str and int, optional
        Of the metrics page; by default that of the server that started this process.
    """

    def __init__(
        self, model: str, most: int, wait: float, full: int, address: tuple[str, int] | None = None
    ) -> None:
        self._label = f'model="{model}"'
        self._most, self._wait, self._full = most, wait, full
        self._address = address or metrics_address(_arguments(os.getppid()))
        self._waiting, self._seen = 0, -_STALE_AFTER
        self._seconds = 0.0  # of one request, lately
        self._slow = False
        self._asked = threading.Event()
        threading.Thread(target=self._look_when_asked, name="backlog", daemon=True).start()

    @property
    def limit(self) -> int:
        """Requests that may wait now."""
        return self._most if not self._seconds else max(1, min(self._most, int(self._wait / self._seconds)))

    def excess(self, requests: int) -> str | None:
        """Return why so many requests that were handed over are to be refused, None if they are not."""
        limit = self.limit
        stale = time.monotonic() - self._seen > _STALE_AFTER
        if stale and (self._slow or self._waiting > limit):
            # While a batch takes long nobody has looked, and to look now is little beside it. A batch of few requests may be
            # full all the same, of many texts.
            self._look()
        elif self._waiting > limit or 2 * requests >= min(limit, self._full):
            self._asked.set()
        waiting = self._waiting
        if waiting <= limit or time.monotonic() - self._seen > _STALE_AFTER:
            return None
        self._waiting = waiting - requests
        return f"{waiting:,} requests wait, and the limit is {limit:,}; ask again later"

    def took(self, requests: int, seconds: float) -> None:
        """Note how long requests took that were not refused."""
        each = seconds / requests
        self._slow = seconds > _LOOK_EVERY
        self._seconds = each if not self._seconds else 0.8 * self._seconds + 0.2 * each

    def _look_when_asked(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            self._look()
            time.sleep(_LOOK_EVERY)

    def _look(self) -> None:
        page = http.client.HTTPConnection(*self._address, timeout=1)
        # No page, no limit: a server without metrics serves all the same.
        with suppress(OSError, http.client.HTTPException, ValueError), closing(page):
            page.request("GET", "/metrics")
            self._waiting = read_gauge(page.getresponse().read().decode(), self._label)
            self._seen = time.monotonic()


def read_gauge(page: str, label: str) -> int:
    """Return how many requests wait for a model by a metrics page; 0 if it does not say."""
    for line in page.splitlines():
        if line.startswith(_GAUGE) and label in line:
            return int(float(line.rsplit(" ", 1)[1]))
    return 0


def metrics_address(arguments: Sequence[str]) -> tuple[str, int]:
    """Return where a server that was started with these arguments shows its metrics."""
    given = dict(itertools.pairwise(arguments))  # --name value
    given |= dict(argument.split("=", 1) for argument in arguments if "=" in argument)  # --name=value
    host = given.get("--metrics-address") or given.get("--http-address") or "127.0.0.1"
    return "127.0.0.1" if host == "0.0.0.0" else host, int(given.get("--metrics-port") or 8002)


def _arguments(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
