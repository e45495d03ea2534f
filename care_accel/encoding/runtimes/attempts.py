"""The tries of a request to a server: retried while it is unavailable, with pauses, within a deadline."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from random import random
from typing import Any

from care_accel.errors import CareError

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s/:@]+):(\d{1,5})")
# What a server says that is there but takes no more: our models (`care_accel.serving.backend.backlog`), its own queue limits.
_BUSY = re.compile(r"requests wait, and the limit is|queue size|timeout expired", re.IGNORECASE)
# A model's process has died: the script tritonserver starts the server anew within a second.
_DYING = re.compile(r"Stub process .* is not healthy")
_LOADING = re.compile(r"unknown model: .* has no available versions")


class ServerError(CareError):
    """What a server said, or that it said nothing.

    Attributes
    ----------
    status : str
        gRPC's name for it, such as ``"UNAVAILABLE"``.
    """

    def __init__(self, status: str, line: str) -> None:
        super().__init__(line)
        self.status = status


def checked_address(address: str) -> str:
    """Return the address as it is.

    Raises
    ------
    CareError
        It is not ``host:port``.
    """
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if match is None or not 0 < int(match[2]) < 65_536:
        raise CareError(
            f"{address!r} is no address of an inference server; give host and gRPC port, as in 'localhost:8001'"
        )
    return address


def checked_limits(timeout: float, retries: int, in_flight: int) -> None:
    """Refuse limits of a client that make no sense.

    Raises
    ------
    CareError
        With the name and the value.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
        raise CareError(f"timeout is {timeout!r}; it must be a number of seconds above 0")
    for name, value, least in (("retries", retries, 0), ("in_flight", in_flight, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise CareError(f"{name} is {value!r}; it must be a whole number of at least {least}")


class Attempts:
    """The tries of one request: how long the next may take, and how long to wait before it.

    Parameters
    ----------
    address, model : str
        Named in errors.
    timeout : float
        Seconds for all tries and the pauses between them.
    retries : int
        Tries after the first.
    reached : bool
        Whether the server has answered before: if it is away now, it starts anew, and is asked until the deadline.
    clock, chance : callable
        Seconds, and a number from 0 to 1.
    """

    def __init__(
        self,
        address: str,
        model: str,
        timeout: float,
        retries: int,
        reached: bool = False,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random,
    ) -> None:
        self._address, self._model = address, model
        self._timeout, self._clock, self._chance = timeout, clock, chance
        self._deadline = clock() + timeout
        self._left = retries
        self._reached = reached
        self._pause = _FIRST_PAUSE

    def seconds(self) -> float:
        """Return what is left until the deadline."""
        return max(1e-3, self._deadline - self._clock())

    def pause(self, error: Any) -> float:
        """Return how long to wait after an ``InferenceServerException`` before the next try.

        Half of it is chance, so that clients that were refused together do not come back together.

        Raises
        ------
        ServerError
            There is no next try: the error is of another kind, or tries or time are used up.
        """
        pause = self._pause * (0.5 + 0.5 * self._chance())
        words = str(error.message())
        # A server that unloads its models to end, or has not loaded them yet, did not look at the request either.
        unavailable = (
            error.status() == "StatusCode.UNAVAILABLE"
            or bool(_DYING.search(words))
            or (self._reached and bool(_LOADING.search(words)))
            # A server that ends cuts off what is on its way; a call that its caller gave up does not come here.
            or (self._reached and error.status() == "StatusCode.CANCELLED")
        )
        waits = self._left > 0 or (self._reached and not _BUSY.search(words))
        if not unavailable or not waits or pause >= self.seconds():
            raise self._explained(error)
        self._left -= 1
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return pause

    def _explained(self, error: Any) -> ServerError:
        status = str(error.status()).removeprefix("StatusCode.")
        words = " ".join(str(error.message()).split()).removeprefix("[request id: <id_unknown>] ")
        return ServerError(status, self._line(status, words))

    def _line(self, status: str, words: str) -> str:
        if status == "DEADLINE_EXCEEDED":
            return (
                f"{self._address}: {self._model} did not answer within {self._timeout:g} s; give a longer timeout or "
                "fewer texts at a time"
            )
        if status == "UNAVAILABLE" and _BUSY.search(words):
            return f"{self._address}: {self._model} is overloaded ({words}); try again later, or give more retries"
        if status == "UNAVAILABLE":
            return (
                f"{self._address}: no inference server answers there ({words}); start one with care-accel serve, and "
                "give the address of its gRPC port"
            )
        if status == "NOT_FOUND":
            return f"{self._address}: serves no model {self._model!r} ({words}); serve a repository of this package"
        if status == "INVALID_ARGUMENT":
            return f"{self._model}: {words}"
        return f"{self._address}: {self._model} failed: {status}: {words}"
