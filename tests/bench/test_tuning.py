"""Tuning a peer of the approximate suite to a recall."""

import numpy as np
import pytest

from bench.approximate import tuning
from bench.approximate.test_approximate import Case


class Found(tuning.TunableIndex):
    """A stub that finds all of the top k from a setting on, and records the settings that it is searched with."""

    def __init__(self, enough, max_value, results_key, time):
        super().__init__(index=time, setting="nprobe", max_value=max_value, results_key=results_key)
        self.enough, self.asked = enough, []

    def use(self, value):
        pass

    def search_all(self, queries, value):
        self.asked.append(value)
        found = np.arange(tuning.K) if value >= self.enough else np.full(tuning.K, -1)
        return np.tile(found, (len(queries), 1))


@pytest.fixture
def case(monkeypatch):
    monkeypatch.setattr(tuning, "_median_time", lambda time, queries: time)
    vectors = np.sqrt(np.arange(100, 0, -1, dtype=np.float32))[:, None]  # the first are the best
    queries = np.ones((4, 1), np.float32)
    return Case("stub", vectors, queries, queries.copy())


def test_the_fastest_candidate_is_chosen_at_its_smallest_setting_that_reaches_the_recall(case):
    candidates = [
        Found(30, 90, "few lists", 2.0),
        Found(7, 40, "many lists", 1.0),
        Found(91, 90, "too few", 0.1),
    ]
    candidate, value = tuning.tuned(case, tuning.Built(candidates), 0.99)
    assert candidate is candidates[1]
    assert value == min(step for step in tuning.STEPS if step >= 7)


def test_candidates_with_the_same_results_are_searched_once_for_all_recalls(case):
    candidates = [Found(7, 40, "lists", time) for time in (2.0, 1.0)]
    built = tuning.Built(candidates)
    first = tuning.tuned(case, built, 0.99)
    assert tuning.tuned(case, built, 0.999) == first
    assert first[0] is candidates[1]
    assert candidates[1].asked == []
    assert len(candidates[0].asked) == len(set(candidates[0].asked))


def test_nothing_is_chosen_where_no_candidate_reaches_the_recall(case):
    assert tuning.tuned(case, tuning.Built([Found(91, 90, "lists", 1.0)]), 0.99) is None
