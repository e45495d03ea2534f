"""Places for requests in work, and memory for bodies that arrive: what exceeds either is refused, not queued."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from care_accel.serving.gateway.errors import ApiError
from care_accel.serving.gateway.metrics import Metrics
from care_accel.serving.gateway.settings import Settings

# Bodies of the maximum size that may be arriving at the same time. Slow bodies are limited by what they have sent, not by
# their number: many connections that send nothing must not shut out the others.
_FULL_BODIES = 16


class Places:
    """Concurrency limit of requests that make the server work, and a limit of the bytes of bodies that arrive.

    A place is taken when the body is there: who sends slowly must not hold one meanwhile.

    Parameters
    ----------
    settings : Settings
    metrics : Metrics
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._in_flight = 0
        self._arrived = 0
        self._max_arrived = _FULL_BODIES * settings.max_body

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold a place; requests are not queued here, as the inference server has a queue.

        Raises
        ------
        ApiError
            503 if there is none.
        """
        if self._in_flight >= self._settings.concurrency:
            raise self._overloaded("concurrency", "too many concurrent requests; retry later")
        self._in_flight += 1
        self._metrics.in_flight.inc()
        try:
            yield
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.dec()

    @contextmanager
    def arriving(self) -> Iterator[bytearray]:
        """Hold memory for a body that arrives, which `grow` fills."""
        body = bytearray()
        self._metrics.bodies.inc()
        try:
            yield body
        finally:
            self._arrived -= len(body)
            self._metrics.bodies.dec()

    def grow(self, body: bytearray, piece: bytes) -> None:
        """Append to a body that arrives.

        Raises
        ------
        ApiError
            503 if all bodies together are too large.
        """
        if self._arrived + len(piece) > self._max_arrived:
            raise self._overloaded("bodies", "too many large requests are arriving; retry later")
        self._arrived += len(piece)
        body += piece

    def _overloaded(self, reason: str, message: str) -> ApiError:
        self._metrics.rejected.labels(reason).inc()
        return ApiError(503, "overloaded", message, headers={"Retry-After": "1"})
