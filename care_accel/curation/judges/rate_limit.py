"""Client-side rate limiting by requests and tokens per minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


class RateLimiter:
    """Spaces requests evenly so that no minute exceeds the request or the token limit.

    Each request gets a start time: that of the previous one plus its share of a minute. The token buckets of
    rate-limiting libraries allow a burst of a whole minute's quota while the next refills, which endpoints count
    as up to twice the limit.

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
        # Earliest start of the next request, by each limit, and after a Retry-After.
        self._after_requests = self._after_tokens = self._paused = 0.0

    async def acquire(self, tokens: float) -> None:
        """Wait until a request of an estimated number of tokens may be sent."""
        now = self._clock()
        start = max(now, self._after_requests, self._after_tokens)
        # Reserved before sleeping, so that later requests queue behind this one.
        self._after_requests = start + self._request
        self._after_tokens = start + tokens * self._token
        while (start := max(start, self._paused)) > self._clock():
            await self._sleep(start - self._clock())

    def record_usage(self, estimated: float, used: float) -> None:
        """Replace the estimated tokens of a request by those used."""
        self._after_tokens += (used - estimated) * self._token

    def pause(self, seconds: float) -> None:
        """Pause all requests, as the endpoint asked by Retry-After."""
        self._paused = max(self._paused, self._clock() + seconds)
