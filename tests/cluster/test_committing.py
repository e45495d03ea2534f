"""The thread that folds parts: in order, one commit at a time, its errors in the driver, and no commit without the lock."""

import threading
from types import SimpleNamespace

import pytest

from care_accel import CareError
from care_accel.cluster import committing
from care_accel.cluster.committing import Committer


class Noted:
    """A folder that commits each part; parts of `held` wait until they may go on."""

    def __init__(self, run, plan, table, may_commit):
        self.may_commit, self.steps, self.commits, self.threads = may_commit, [], 0, set()
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.held, self.fails = set(), {}
        self._inside = threading.Lock()

    def add(self, number, record):
        assert self._inside.acquire(blocking=False)  # two folds at once
        try:
            self.threads.add(threading.get_ident())
            self.may_commit()
            if number in self.held:
                self.begun.set()
                assert self.go_on.wait(60)
            if number in self.fails:
                raise self.fails[number]
            self.steps.append(("add", number))
            self.commits += 1
        finally:
            self._inside.release()

    def set_aside(self, number):
        self.steps.append(("aside", number))

    def finish(self):
        self.steps.append(("finish",))


@pytest.fixture
def committer(monkeypatch):
    monkeypatch.setattr(committing, "Folder", Noted)
    monkeypatch.setattr(committing, "_TURN_SECONDS", 0.01)
    allowed = SimpleNamespace(error=None, asked=0, told=[])

    def may_commit():
        allowed.asked += 1
        if allowed.error is not None:
            raise allowed.error

    made = Committer(None, None, None, may_commit, lambda folder: allowed.told.append(folder.commits))
    made.allowed = allowed
    yield made
    made.folder.go_on.set()


def last(folder):
    folder.steps.append(("last",))


def test_parts_are_folded_in_the_order_in_which_they_are_given_by_one_thread(committer):
    with committer:
        for number in range(50):
            committer.set_aside(number) if number % 7 == 3 else committer.add(number, {})
        committer.finish(lambda text: None, last)
    steps = [("aside" if n % 7 == 3 else "add", n) for n in range(50)]
    assert committer.folder.steps == [*steps, ("finish",), ("last",)]
    assert committer.folder.threads.isdisjoint({threading.get_ident()})
    assert len(committer.folder.threads) == 1
    assert committer.allowed.told == list(range(1, committer.folder.commits + 1))


def test_the_driver_hands_on_parts_while_a_commit_is_under_way(committer):
    committer.folder.held = {0}
    with committer:
        committer.add(0, {})
        assert committer.folder.begun.wait(60)
        for number in (1, 2, 3):
            committer.add(number, {})
        assert committer.folder.steps == []
        committer.folder.go_on.set()
        committer.finish(lambda text: None, last)
    assert committer.folder.steps[:4] == [("add", number) for number in range(4)]


def test_the_end_waits_for_the_last_fold_and_says_so(committer):
    committer.folder.held = {1}
    told = []

    def tick(text):
        told.append(text)
        if len(told) == 3:
            committer.folder.go_on.set()

    with committer:
        committer.add(0, {})
        committer.add(1, {})
        committer.finish(tick, last)
    assert ("add", 1) in committer.folder.steps
    assert len(told) >= 3
    assert set(told) == {"the last commits"}


def test_an_error_of_the_thread_is_raised_in_the_driver_and_ends_the_folding(committer):
    committer.folder.fails = {1: CareError("the disk is full")}
    with committer:
        for number in range(3):
            committer.add(number, {})
        with pytest.raises(CareError, match="the disk is full"):
            committer.finish(lambda text: None, last)
        with pytest.raises(CareError, match="the disk is full"):
            committer.check()
    assert committer.folder.steps == [("add", 0)]


def test_a_lock_that_was_lost_is_told_in_the_driver_and_nothing_is_committed(committer):
    committer.allowed.error = CareError("another process has taken the lock")
    with committer:
        committer.add(0, {})
        with pytest.raises(CareError, match="has taken the lock"):
            committer.finish(lambda text: None, last)
    assert committer.folder.steps == []
    assert committer.allowed.asked == 1


def test_after_an_interrupt_the_commit_under_way_ends_and_no_other_begins(committer, monkeypatch):
    committer.folder.held = {1}
    join = committer._thread.join
    interrupts = [KeyboardInterrupt("a second one")]

    def interrupted(timeout=None):
        if interrupts:
            raise interrupts.pop()
        committer.folder.go_on.set()
        join(timeout)

    def driver():
        with committer:
            for number in range(4):
                committer.add(number, {})
            assert committer.folder.begun.wait(60)
            monkeypatch.setattr(committer._thread, "join", interrupted)
            raise KeyboardInterrupt("the first one")

    with pytest.raises(KeyboardInterrupt, match="a second one"):
        driver()
    assert not committer._thread.is_alive()
    assert committer.folder.steps == [("add", 0), ("add", 1)]
