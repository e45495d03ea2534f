"""Load shedding by queue length: rejects requests when a model's backlog is too long.

The server's queue policy (``max_queue_size``, ``default_timeout_microseconds``, ``allow_timeout_override``) is not used:
with any of these its batcher stops prefetching requests, and may miss one that arrives just as the last batch ends,
which then waits for the next request or half a second. Observed in release 2.51 with one client and with 64; later
releases have the same code. So the model reads the queue length from the server's metrics and rejects requests itself.
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
# Seconds between two polls under load. A poll costs the server a millisecond.
_POLL_S = 0.02
# Older values are ignored: the queue may be empty by now.
_STALE_AFTER_S = 0.2


class Backlog:
    """Decides which requests to reject so that queueing time stays bounded.

    While batches are full or slow, a thread polls the queue length from the server's metrics endpoint. While it exceeds
    the limit, requests are rejected instead of computed.

    Parameters
    ----------
    model : str
    max_waiting : int
        Maximum queue length.
    wait : float
        Maximum queueing time in seconds; lowers the limit for a slow model.
    full : int
        Batch size that triggers polling.
    address : tuple of str and int, optional
        Of the metrics endpoint; by default of the server that started this process.
    in_server : bool
        This process is the server itself.
    """

    def __init__(
        self,
        model: str,
        max_waiting: int,
        wait: float,
        full: int,
        address: tuple[str, int] | None = None,
        *,
        in_server: bool = False,
    ) -> None:
        self._label = f'model="{model}"'
        self._max_waiting, self._wait, self._full = max_waiting, wait, full
        server = os.getpid() if in_server else os.getppid()
        self._address = address or metrics_address(_arguments(server))
        self._waiting, self._seen = 0, -_STALE_AFTER_S
        self._seconds = 0.0  # moving average per request
        self._slow = False
        self._asked, self._ended = threading.Event(), False
        threading.Thread(target=self._poll_on_request, name="backlog", daemon=True).start()

    def end(self) -> None:
        """Stop the polling thread."""
        self._ended = True
        self._asked.set()

    @property
    def limit(self) -> int:
        """Present maximum queue length."""
        return (
            self._max_waiting
            if not self._seconds
            else max(1, min(self._max_waiting, int(self._wait / self._seconds)))
        )

    def overload_reason(self, requests: int) -> str | None:
        """Return why the requests of this batch must be rejected; None to accept them."""
        limit = self.limit
        stale = time.monotonic() - self._seen > _STALE_AFTER_S
        if stale and (self._slow or self._waiting > limit):
            # After a slow batch the value is stale, and a poll is cheap in comparison. A batch of few requests may still
            # be full, with many texts each.
            self._poll()
        elif self._waiting > limit or 2 * requests >= min(limit, self._full):
            self._asked.set()
        waiting = self._waiting
        if waiting <= limit or time.monotonic() - self._seen > _STALE_AFTER_S:
            return None
        self._waiting = waiting - requests
        return f"{waiting:,} requests wait, and the limit is {limit:,}; retry later"

    def record(self, requests: int, seconds: float) -> None:
        """Record the processing time of accepted requests."""
        each = seconds / requests
        self._slow = seconds > _POLL_S
        self._seconds = each if not self._seconds else 0.8 * self._seconds + 0.2 * each

    def _poll_on_request(self) -> None:
        while self._asked.wait() and not self._ended:
            self._asked.clear()
            self._poll()
            time.sleep(_POLL_S)

    def _poll(self) -> None:
        page = http.client.HTTPConnection(*self._address, timeout=1)
        # Without metrics there is no limit.
        with suppress(OSError, http.client.HTTPException, ValueError), closing(page):
            page.request("GET", "/metrics")
            self._waiting = read_gauge(page.getresponse().read().decode(), self._label)
            self._seen = time.monotonic()


def read_gauge(page: str, label: str) -> int:
    """Return the queue length of a model from the text of a metrics page; 0 if missing."""
    for line in page.splitlines():
        if line.startswith(_GAUGE) and label in line:
            return int(float(line.rsplit(" ", 1)[1]))
    return 0


def metrics_address(arguments: Sequence[str]) -> tuple[str, int]:
    """Return the address of the metrics endpoint of a server started with these arguments."""
    given = dict(itertools.pairwise(arguments))  # --name value
    given |= dict(argument.split("=", 1) for argument in arguments if "=" in argument)  # --name=value
    host = given.get("--metrics-address") or given.get("--http-address") or "127.0.0.1"
    return "127.0.0.1" if host == "0.0.0.0" else host, int(given.get("--metrics-port") or 8002)


def _arguments(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
