"""Rate limiting by a token bucket per caller."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

_MAX_CALLERS = 10_000  # bounds memory; the least recent are evicted


class RateLimiter:
    """Token buckets, one per caller.

    Parameters
    ----------
    rate : float
        Refill rate in requests per second; 0 for no limit.
    burst : int
        Capacity of a bucket in requests.
    clock : callable
        Returns seconds.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = (
            OrderedDict()
        )  # requests left, time of the last refill

    def acquire(self, caller: str) -> float:
        """Take one request from a caller's bucket.

        Returns
        -------
        float
            0 if the request is allowed, else the seconds until it would be.
        """
        if not self._rate:
            return 0.0
        now = self._clock()
        left, then = self._buckets.pop(caller, (float(self._burst), now))
        left = min(self._burst, left + (now - then) * self._rate)
        missing = max(0.0, 1.0 - left)
        self._buckets[caller] = (left if missing else left - 1.0, now)
        if len(self._buckets) > _MAX_CALLERS:
            self._buckets.popitem(last=False)
        return missing / self._rate
