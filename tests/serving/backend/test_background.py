import os
import threading

import pytest

from care_accel.serving.backend.background import Background


def policy():
    return os.sched_getscheduler(0)


def test_work_is_done_one_after_the_other_in_one_thread():
    background = Background()
    threads = {background.run(threading.get_ident) for _ in range(5)}
    assert len(threads) == 1
    assert threads != {threading.get_ident()}
    assert background.run(lambda a, b: a + b, 1, 2) == 3


def test_what_goes_wrong_is_raised_where_it_was_asked_for_and_the_next_work_is_done():
    background = Background()
    with pytest.raises(ZeroDivisionError):
        background.run(lambda: 1 / 0)
    assert background.run(lambda: "well") == "well"


def test_the_thread_and_those_it_starts_give_way_and_no_other():
    background = Background()
    background.lower_priority()
    assert background.run(policy) == os.SCHED_IDLE
    assert policy() != os.SCHED_IDLE
    found = []

    def start():
        thread = threading.Thread(target=lambda: found.append(policy()))
        thread.start()
        thread.join()

    background.run(start)
    assert found == [os.SCHED_IDLE]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may surely take back SCHED_IDLE")
def test_it_competes_again_where_the_system_permits_it():
    background = Background()
    background.lower_priority()
    background.restore_priority()
    assert background.run(policy) == os.SCHED_OTHER


def test_where_the_system_does_not_permit_it_the_end_comes_all_the_same(monkeypatch):
    def refuse(*_):
        raise PermissionError

    background = Background()
    background.lower_priority()
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    background.restore_priority()
    assert background.run(policy) == os.SCHED_IDLE
