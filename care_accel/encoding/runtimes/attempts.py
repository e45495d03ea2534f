"""Retry policy of a request to a server: retry while it is unavailable, with exponential backoff, until a deadline."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from random import random
from typing import Any

from care_accel.errors import CareError

_INITIAL_BACKOFF, _MAX_BACKOFF = 0.1, 2.0  # seconds
# Messages of an overloaded server: from our models (`care_accel.serving.backend`: backlog, live_index), and its own queue limits.
_OVERLOADED = re.compile(
    r"requests wait, and the limit is|is compacted so often|queue size|timeout expired", re.IGNORECASE
)
# A model's process has died: the script tritonserver restarts the server within a second.
_STUB_DIED = re.compile(r"Stub process .* is not healthy")
_LOADING = re.compile(r"unknown model: .* has no available versions")


class ServerError(CareError):
    """An error response of a server, or no response.

    Attributes
    ----------
    status : str
        gRPC status, such as ``"UNAVAILABLE"``.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def overloaded(self) -> bool:
        """Whether the server has too much to do; else an unavailable one is gone."""
        return self.status == "UNAVAILABLE" and bool(_OVERLOADED.search(str(self)))

    @property
    def gone(self) -> bool:
        """Whether the server, or its model's process, has ended, is loading, or cannot be reached."""
        if self.status == "UNAVAILABLE":
            return not self.overloaded
        text = str(self)
        return self.status in ("CANCELLED", "DEADLINE_EXCEEDED") or bool(
            _STUB_DIED.search(text) or _LOADING.search(text)
        )


def checked_limits(timeout: float, retries: int, in_flight: int) -> None:
    """Validate the limits of a client.

    Raises
    ------
    CareError
        A limit is out of range; the message gives its name and value.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
        raise CareError(f"timeout is {timeout!r}; it must be a number of seconds above 0")
    for name, value, minimum in (("retries", retries, 0), ("in_flight", in_flight, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise CareError(f"{name} is {value!r}; it must be an integer of at least {minimum}")


class Attempts:
    """Retry state of one request: time left, and backoff before the next attempt.

    Parameters
    ----------
    address, model : str
        Named in errors.
    timeout : float
        Seconds for all attempts and the pauses between them.
    retries : int
        Attempts after the first.
    reached : bool
        Whether the server has answered before. If it is unavailable now, it is restarting, and requests are retried
        until the deadline.
    clock, jitter : callable
        Return the time in seconds, and a random number from 0 to 1.
    """

    def __init__(
        self,
        address: str,
        model: str,
        timeout: float,
        retries: int,
        reached: bool = False,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random,
    ) -> None:
        self._address, self._model = address, model
        self._timeout, self._clock, self._jitter = timeout, clock, jitter
        self._deadline = clock() + timeout
        self._retries_left = retries
        self._reached = reached
        self._backoff = _INITIAL_BACKOFF
        self._refusal: Any = None  # what the server said last

    def seconds(self) -> float:
        """Return the seconds left until the deadline."""
        return max(1e-3, self._deadline - self._clock())

    def pause(self, error: Any) -> float:
        """Return the backoff in seconds after an ``InferenceServerException``.

        Half of it is random jitter, so that clients rejected together do not retry together.

        Raises
        ------
        ServerError
            No retry: the error is not retryable, or no retries or no time are left.
        """
        pause = self._backoff * (0.5 + 0.5 * self._jitter())
        message = str(error.message())
        # A server that is unloading its models to stop, or has not loaded them yet, has not processed the request.
        unavailable = (
            error.status() == "StatusCode.UNAVAILABLE"
            or bool(_STUB_DIED.search(message))
            or (self._reached and bool(_LOADING.search(message)))
            # A server that stops cancels requests in flight; cancellation by the caller does not get here.
            or (self._reached and error.status() == "StatusCode.CANCELLED")
        )
        may_retry = self._retries_left > 0 or (self._reached and not _OVERLOADED.search(message))
        if not unavailable or not may_retry or pause >= self.seconds():
            # A last attempt that the deadline has cut short says less than the answer before it.
            cut_short = error.status() == "StatusCode.DEADLINE_EXCEEDED"
            raise self._to_error(self._refusal if cut_short and self._refusal else error)
        self._refusal = error
        self._retries_left -= 1
        self._backoff = min(2 * self._backoff, _MAX_BACKOFF)
        return pause

    def _to_error(self, error: Any) -> ServerError:
        status = str(error.status()).removeprefix("StatusCode.")
        message = " ".join(str(error.message()).split()).removeprefix("[request id: <id_unknown>] ")
        return ServerError(status, self._describe(status, message))

    def _describe(self, status: str, message: str) -> str:
        if status == "DEADLINE_EXCEEDED":
            return (
                f"{self._address}: {self._model} did not answer within {self._timeout:g} s; use a longer timeout or "
                "fewer texts per request"
            )
        if status == "UNAVAILABLE" and _OVERLOADED.search(message):
            return f"{self._address}: {self._model} is overloaded ({message}); try again later, or use more retries"
        if status == "UNAVAILABLE":
            return (
                f"{self._address}: no inference server answers ({message}); start one with care-accel serve, and "
                "give the address of its gRPC port, or http:// and that of its HTTP port"
            )
        if status == "NOT_FOUND":
            return f"{self._address}: serves no model {self._model!r} ({message}); serve a repository of this package"
        if status == "INVALID_ARGUMENT":
            return f"{self._model}: {message}"
        return f"{self._address}: {self._model} failed: {status}: {message}"
