import asyncio

import pytest

from care_accel.curation.judges.rate_limit import RateLimiter


class Clock:
    """A clock that advances only by sleeping."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        until = self.now + seconds
        await asyncio.sleep(0)
        self.now = max(self.now, until)


def starts(count, tokens=0, **limits):
    """Return when each of several requests started."""
    clock = Clock()
    pace = RateLimiter(**limits, clock=clock, sleep=clock.sleep)
    found = []

    async def everything():
        for _ in range(count):
            await pace.acquire(tokens)
            found.append(clock.now - 100.0)

    asyncio.run(everything())
    return found


def test_without_limits_nobody_waits():
    assert starts(5, tokens=1000) == [0.0] * 5


def test_requests_are_spaced_by_the_limit():
    assert starts(4, requests_a_minute=30) == pytest.approx([0, 2, 4, 6])


def test_tokens_are_spaced_by_the_limit_also_where_one_request_is_above_it():
    assert starts(3, tokens=3000, tokens_a_minute=1000) == pytest.approx([0, 180, 360])


def test_no_minute_holds_more_requests_than_allowed():
    moments = starts(50, tokens=10, requests_a_minute=20, tokens_a_minute=150)
    for first in moments:
        assert sum(first <= moment < first + 60 - 1e-6 for moment in moments) <= 15


def test_what_was_estimated_wrong_is_put_right():
    clock = Clock()
    pace = RateLimiter(tokens_a_minute=60, clock=clock, sleep=clock.sleep)

    async def two():
        await pace.acquire(10)
        pace.record_usage(10, 4)
        await pace.acquire(10)

    asyncio.run(two())
    assert clock.now - 100 == pytest.approx(4)


def test_a_pause_holds_for_all_that_come_and_for_those_that_wait():
    clock = Clock()
    pace = RateLimiter(requests_a_minute=60, clock=clock, sleep=clock.sleep)

    async def one():
        await pace.acquire(1)
        return clock.now - 100

    async def everything():
        first = await one()
        waiting = asyncio.create_task(one())
        await asyncio.sleep(0)
        pace.pause(30)
        return first, await waiting, await one()

    first, second, third = asyncio.run(everything())
    assert first == 0
    assert second >= 30
    assert third >= 30
