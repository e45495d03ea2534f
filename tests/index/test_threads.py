"""Threads that wait for the next search."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from care_accel import ExactIndex


@pytest.fixture(scope="module")
def index():
    made = ExactIndex(64, threads=3)
    made.add(np.random.default_rng(1).standard_normal((30_000, 64), np.float32))  # 1.8 MiB of codes
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
