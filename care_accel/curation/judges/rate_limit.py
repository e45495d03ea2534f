"""Keeping to an endpoint's limits a minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


class Pace:
    """Spaces requests out so that no minute holds more of them, or of their tokens, than allowed.

    Each request waits for a moment of its own: the last one's plus what that takes of a minute. The buckets of
    rate limiting libraries let a whole minute's allowance go at once, and then the next minute's as it refills,
    which endpoints count as up to twice the limit.

    Parameters
    ----------
    requests_a_minute, tokens_a_minute : float or None
        None for no limit.
    clock, sleep : callable
        Replaced in tests.
    """

    def __init__(
        self,
        requests_a_minute: float | None = None,
        tokens_a_minute: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._request = 0.0 if requests_a_minute is None else 60 / requests_a_minute
        self._token = 0.0 if tokens_a_minute is None else 60 / tokens_a_minute
        self._clock, self._sleep = clock, sleep
        # When the next request may start, by each limit, and after a refusal by the endpoint.
        self._after_requests = self._after_tokens = self._paused = 0.0

    async def wait(self, tokens: float) -> None:
        """Wait until a request of about so many tokens may be sent."""
        now = self._clock()
        start = max(now, self._after_requests, self._after_tokens)
        # Taken at once, before this one sleeps: who comes next waits behind it.
        self._after_requests = start + self._request
        self._after_tokens = start + tokens * self._token
        while (start := max(start, self._paused)) > self._clock():
            await self._sleep(start - self._clock())

    def settle(self, estimated: float, used: float) -> None:
        """Put right what a request was thought to take."""
        self._after_tokens += (used - estimated) * self._token

    def pause(self, seconds: float) -> None:
        """Send nothing for a while: the endpoint asked for it."""
        self._paused = max(self._paused, self._clock() + seconds)
