"""Connections that wait, by a clock that the tests set."""

import threading

import pytest

from care_accel.encoding.runtimes.transports import http_pool
from care_accel.encoding.runtimes.transports.http_pool import Connection, Pool, later_on_a_thread


class Clock:
    """Time, and what is due."""

    def __init__(self):
        self.now, self.due = 100.0, []

    def later(self, seconds, function):
        self.due.append((self.now + seconds, function))
        return self

    def cancel(self):
        self.due.clear()

    def pass_by(self, seconds):
        self.now += seconds
        calls = [one for one in self.due if one[0] <= self.now]
        self.due = [one for one in self.due if one[0] > self.now]
        for _, function in calls:
            function()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(http_pool.time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def closed():
    return []


@pytest.fixture
def pool(clock, closed):
    return Pool(closed.append, clock.later, longest=2.0)


def test_the_newest_connection_is_used_first(pool, clock):
    for name in "ab":
        pool.put(Connection(name, clock.now))
    assert [pool.take().link for _ in "ab"] == ["b", "a"]
    assert pool.take() is None


def test_a_connection_that_waits_is_closed_when_it_is_old(pool, clock, closed):
    pool.put(Connection("a", clock.now))
    clock.pass_by(1.0)
    pool.put(Connection("b", clock.now))
    assert len(clock.due) == 1  # one call for all
    clock.pass_by(1.1)
    assert closed == ["a"]
    assert len(pool) == 1
    clock.pass_by(1.0)
    assert closed == ["a", "b"]
    assert not clock.due


def test_a_busy_connection_is_closed_after_its_request_when_it_is_old(pool, clock, closed):
    opened = clock.now
    for _ in range(3):  # in use all the time
        pool.put(Connection("a", opened))
        assert pool.take().link == "a"
        clock.pass_by(0.9)
    pool.put(Connection("a", opened))
    assert closed == ["a"]
    assert pool.take() is None


def test_no_more_wait_than_are_of_use(pool, clock, closed):
    for n in range(80):
        pool.put(Connection(n, clock.now))
    assert (len(pool), len(closed)) == (64, 16)


def test_a_pool_that_is_cleared_has_nothing_due(pool, clock, closed):
    pool.put(Connection("a", clock.now))
    assert pool.clear() == closed == ["a"]
    assert not clock.due


def test_a_call_on_a_thread_comes_and_does_not_hold_the_process():
    called = threading.Event()
    timer = later_on_a_thread(0.01, called.set)
    assert timer.daemon
    assert called.wait(10)
