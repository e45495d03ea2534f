"""Threads that wait for the next search."""

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from care_accel import ExactIndex


@pytest.fixture(scope="module")
def index():
    made = ExactIndex(64, threads=3)
    made.add(np.random.default_rng(1).standard_normal((60_000, 64), np.float32))  # codes for seven threads
    return made


QUERIES = np.random.default_rng(2).standard_normal((40, 64), np.float32)


def found_by(index, query, threads=3):
    scores, ids = index.search(query, 10, threads=threads)
    return scores.tobytes(), ids.tobytes()


def test_searches_at_the_same_time_find_what_one_thread_finds(index):
    alone = [found_by(index, query, threads=1) for query in QUERIES]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(5):
            assert list(pool.map(lambda query: found_by(index, query), QUERIES)) == alone


def _search_all(index, results):
    results.put([found_by(index, query) for query in QUERIES])


def test_a_forked_process_has_threads_of_its_own(index):
    here = [found_by(index, query) for query in QUERIES]  # the threads wait now
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    child = fork.Process(target=_search_all, args=(index, results))
    child.start()
    assert results.get(timeout=60) == here
    child.join()
    assert child.exitcode == 0
    assert [found_by(index, query) for query in QUERIES] == here


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_a_search_in_the_background_leaves_no_slow_threads_to_the_next(index):
    def priorities():
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                yield os.getpriority(os.PRIO_PROCESS, int(thread))

    usual = os.getpriority(os.PRIO_PROCESS, 0)

    def search():
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        found.append(found_by(index, QUERIES[0], threads=5))  # more than wait

    found = []
    thread = threading.Thread(target=search)
    thread.start()
    thread.join()
    assert found == [found_by(index, QUERIES[0])]
    end = time.monotonic() + 10  # the thread itself ends a little after it is joined
    while set(priorities()) != {usual} and time.monotonic() < end:
        time.sleep(0.01)
    assert set(priorities()) == {usual}
