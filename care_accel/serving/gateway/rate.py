"""How often a caller may call: one token bucket each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

_MOST_CALLERS = 10_000  # memory stays bounded however many addresses call


class RateLimit:
    """Token buckets, one a caller.

    Parameters
    ----------
    rate : float
        Requests a second that a bucket regains; 0 limits nothing.
    burst : int
        Requests that a full bucket holds.
    clock : callable
        Seconds.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests left, as of when

    def wait(self, caller: str) -> float:
        """Take one request from a caller's bucket.

        Returns
        -------
        float
            0 if it held one, else the seconds until it will.
        """
        if not self._rate:
            return 0.0
        now = self._clock()
        left, then = self._buckets.pop(caller, (float(self._burst), now))
        left = min(self._burst, left + (now - then) * self._rate)
        missing = max(0.0, 1.0 - left)
        self._buckets[caller] = (left if missing else left - 1.0, now)
        if len(self._buckets) > _MOST_CALLERS:
            self._buckets.popitem(last=False)
        return missing / self._rate
